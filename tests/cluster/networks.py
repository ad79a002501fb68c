"""Ray nodes in network namespaces of this machine: each has an address, a link that can be cut, the same disk."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
WAIT = 240.0


def possible() -> bool:
    """Whether namespaces can be made here: root, iproute2, and a kernel that lets us."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"prt{secrets.token_hex(2)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Network:
    """A bridge and the nodes on it. Names begin with `mark`, so that only our own are removed."""

    home: Path
    mark: str = field(default_factory=lambda: f"pr{secrets.token_hex(2)}")
    token: str = field(default_factory=lambda: secrets.token_hex(24))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, list[str | Path]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return clean | {
            "HOME": str(self.home), "RAY_TMPDIR": str(self.home), "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            # a node is given up after some seconds of silence, by default after half a minute
            "RAY_health_check_initial_delay_ms": "5000", "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "3",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # gloo takes the address of the machine's name, which is that of no namespace
            "GLOO_SOCKET_IFNAME": "eth0",
        }  # fmt: skip

    def add(self, name: str) -> None:
        """A namespace with an address of its own."""
        n = len(self.addresses) + 2
        space, outer = f"{self.mark}{name}", f"{self.mark}{name}"
        ip("netns", "add", space)
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", outer, "master", self.mark, "up")
        self.addresses[name] = f"10.231.77.{n}"
        for words in (["addr", "add", f"{self.addresses[name]}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            ip("-n", space, *words)
        ip("-n", space, "link", "set", "lo", "up")

    def inside(self, name: str, command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", f"{self.mark}{name}", *command], cwd=ROOT, env=self.environment, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def start(self, name: str, *, cpus: int, hidden: Path | None = None) -> None:
        """`ray start` in a namespace: the first is the head. Over `hidden` the node has a disk of its own."""
        self.launch(name, cpus=cpus, hidden=hidden)
        self.wait(name)

    def start_all(self, names: Sequence[str], *, cpus: int) -> None:
        """The first alone, for it is the head; the others side by side."""
        self.start(names[0], cpus=cpus)
        for name in names[1:]:
            self.launch(name, cpus=cpus)
        for name in names[1:]:
            self.wait(name)

    def launch(self, name: str, *, cpus: int, hidden: Path | None = None) -> None:
        first = "head" not in self.processes
        address = f"{self.addresses['head']}:6379"
        words = ["--head", "--port=6379", "--include-dashboard=false"] if first else [f"--address={address}"]
        words += ["--block", f"--num-cpus={cpus}", f"--node-ip-address={self.addresses[name]}"]
        command: list[str | Path] = [BIN / "ray", "start", *words]
        if hidden is not None:
            # `ip netns exec` brings a mount namespace of its own: nobody else sees this
            command = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', hidden, *command]
        self.commands[name] = command
        self.processes[name] = self.inside(name, command, self.home / f"{name}.log")

    def wait(self, name: str) -> None:
        """Until a node is up."""
        log, until = self.home / f"{name}.log", time.monotonic() + WAIT
        while "block forever" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            if self.processes[name].poll() is not None:
                # Ray itself waits 30 s for a node, which a busy machine may exceed
                assert "timed out during startup" in log.read_text(), log.read_text()
                self.kill(name)
                self.processes[name] = self.inside(name, self.commands[name], log)
            time.sleep(0.1)

    def cut(self, name: str) -> None:
        ip("link", "set", f"{self.mark}{name}", "down")

    def processes_of(self, name: str) -> list[int]:
        found = subprocess.run(
            ["ip", "netns", "pids", f"{self.mark}{name}"], capture_output=True, text=True, check=False
        )
        return [int(number) for number in found.stdout.split()]

    def has(self, name: str, title: str) -> bool:
        """Whether a process of that title runs on a node."""
        for number in self.processes_of(name):
            with suppress(OSError):
                if title.encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                    return True
        return False

    def kill(self, name: str) -> None:
        """All processes of a node at once, as when the power goes."""
        for number in self.processes_of(name):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if name in self.processes:
            self.processes.pop(name).wait(30)

    def phaseray(self, *arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """The command line on the head, on this cluster."""
        program = "import sys; from phaseray.cli import main; main(sys.argv[1:])"
        where = ["--set", f"ray.address={self.addresses['head']}:6379"]
        return self.inside("head", [sys.executable, "-c", program, *map(str, arguments), *where], log)


@contextmanager
def network(home: Path) -> Iterator[Network]:
    made = Network(home)
    ip("link", "add", made.mark, "type", "bridge")
    try:
        ip("addr", "add", "10.231.77.1/24", "dev", made.mark)
        ip("link", "set", made.mark, "up")
        yield made
    finally:
        for name in list(made.addresses):
            made.kill(name)
            subprocess.run(["ip", "netns", "del", f"{made.mark}{name}"], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", f"{made.mark}{name}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", made.mark], capture_output=True, check=False)
