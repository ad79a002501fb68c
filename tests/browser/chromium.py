"""Chromium without a window, told what to do over a pipe (its DevTools protocol): nothing to install beside it."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1600, 1000


def executable() -> str | None:
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a browser of its own, which ends with the block."""
    told_read, told_write = os.pipe()
    heard_read, heard_write = os.pipe()
    # the browser reads from 3 and writes to 4: what is to go there must not be there already
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (told_read, heard_write)]

    def as_3_and_4() -> None:
        os.dup2(theirs[0], 3)
        os.dup2(theirs[1], 4)

    process = subprocess.Popen(
        [
            executable() or "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", "--no-first-run", "--disable-extensions", "--disable-background-networking",
            f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=as_3_and_4, pass_fds=(3, 4),  # noqa: PLW1509
        start_new_session=True,
    )  # fmt: skip
    for end in (told_read, heard_write, *theirs):
        os.close(end)
    try:
        yield Page(told_write, heard_read)
    finally:
        os.close(told_write)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(heard_read)


class Page:
    """One tab."""

    def __init__(self, told: int, heard: int) -> None:
        self.told, self.heard = told, heard
        self.left = b""
        self.numbers = itertools.count(1)
        self.session: str | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.command("Page.enable")
        self.command(
            "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
        )

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.told, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _message(self, seconds: float = 60) -> bytes:
        until = time.monotonic() + seconds
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.heard], [], [], max(0.0, until - time.monotonic()))
            received = os.read(self.heard, 1 << 20) if ready else b""
            if not received:
                raise RuntimeError("the browser says nothing any more")
            self.left += received
        message, _, self.left = self.left.partition(b"\0")
        return message

    def open(self, address: str) -> None:
        self.command("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self) -> str:
        """What a person reads on the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The value of the expression as soon as it is true."""
        until = time.monotonic() + seconds
        while True:
            value = self.run(script)
            if value:
                return value
            assert time.monotonic() < until, f"never true: {script}; the page reads:\n{self.text()[:3000]}"
            time.sleep(0.2)

    def wait_for(self, *texts: str, seconds: float = 60) -> None:
        """Until the page shows all of them."""
        for text in texts:
            self.wait(f"document.body && document.body.innerText.includes({json.dumps(text)})", seconds)

    def click(self, element: str) -> None:
        """A real click in the middle of what the expression gives, once it is there."""
        self.wait(f"Boolean({element})")
        self.run(f"{element}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.wait(
            f"(r => r.width && [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))
