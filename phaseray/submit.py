"""`phaseray submit`: one command as a job on a Ray cluster, followed to its end.

A thin wrapper of `ray.job_submission`. The token is taken from the environment (RAY_AUTH_TOKEN, or the
file of RAY_AUTH_TOKEN_PATH) by Ray itself, and is no option: options end up in shell histories, and what
a job is started with stands in the dashboard for everybody to read.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phaseray.config import ConfigError
from phaseray.tracking import GIT_SHA, git_sha

DONE, FAILED, BAD_USAGE = 0, 1, 2
_LOST = 30.0  # seconds without a connection until following is given up; the job goes on


@dataclass(frozen=True)
class Request:
    """One job.

    Attributes
    ----------
    command : ingest, generate, train, evaluate or pipeline
    arguments : of that command, as on the command line
    out : its output folder; two jobs never write into one at the same time
    working_dir : the project's folder, which is sent
    address : http:// or https:// of the dashboard; None: RAY_API_SERVER_ADDRESS
    submission_id : None: from the command, the folder's name and the time
    cpus, gpus : logical ones, of the node on which the command itself runs; none: it runs on the head
    """

    command: str
    arguments: Sequence[str]
    out: Path
    working_dir: Path = Path()
    address: str | None = None
    submission_id: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", f"jobs/{self.command}.py", *self.arguments])


def submit(request: Request, *, follow: bool = True, say: Callable[[str], None] = print) -> int:
    """Send a job, or take up one that runs already, and follow it.

    A job that was sent before under the same id, or that writes the same folder, and still runs is
    followed instead of started twice. One that has ended is sent again under a new id: it goes on with
    what stands in its folder.

    Returns
    -------
    int
        The job's own exit status: 0 done, 1 failed or stopped, 2 bad usage or bad config. Without
        following, 0 once the cluster has taken it.

    Raises
    ------
    ConfigError
        No cluster, no access, or nothing to send.
    """
    _check(request)
    client = _client(request.address)
    known = {job.submission_id: job for job in client.list_jobs() if job.submission_id}
    running = [job for job in known.values() if not job.status.is_terminal()]
    same = [job for job in running if _is_same(job, request)]
    if same:
        job_id = same[0].submission_id
        say(f"{job_id} runs already and writes {request.out}: following it")
    else:
        job_id = _new_id(request, known)
        _send(client, request, job_id)
        say(f"submitted {job_id}: {request.entrypoint}")
    if not follow:
        return DONE
    try:
        return follow_job(client, job_id, say=say)
    except KeyboardInterrupt:
        say(f"\n{job_id} goes on without you. The same command follows it again; `ray job stop {job_id}` stops it.")
        return FAILED


def follow_job(client: Any, job_id: str, *, say: Callable[[str], None] = print, write: Any = None) -> int:
    """Pass on a job's log as it comes, to its end; the job's exit status.

    Raises
    ------
    ConnectionError
        The cluster cannot be reached any more, or has forgotten the job.
    """
    log = _Log(write or (lambda text: print(text, end="", flush=True)))
    lost: float | None = None
    while True:
        try:
            asyncio.run(log.tail(client, job_id))
            details = client.get_job_info(job_id)
        except (OSError, RuntimeError) as error:  # aiohttp's, requests' and Ray's own
            lost = lost or time.monotonic()
            if time.monotonic() - lost > _LOST:
                raise ConnectionError(
                    f"lost {job_id} ({_one_line(error)}): the same command follows it again if it still runs, and "
                    "goes on where it stopped if not"
                ) from error
            time.sleep(1)
            continue
        lost = None
        if details.status.is_terminal():
            break
        time.sleep(0.5)
    status = _exit_status(details)
    say(f"{job_id}: {details.status.value.lower()}" + (f", exit status {status}" if status else ""))
    return status


@dataclass
class _Log:
    """Each character once: a connection that was cut starts at the beginning of the log again."""

    write: Callable[[str], None]
    told: int = 0

    async def tail(self, client: Any, job_id: str) -> None:
        at = 0
        async for text in client.tail_job_logs(job_id):
            new = text[max(0, self.told - at) :]
            at += len(text)
            self.told = max(self.told, at)
            if new:
                self.write(new)


def _exit_status(details: Any) -> int:
    if details.status.value == "SUCCEEDED":
        return DONE
    return BAD_USAGE if details.driver_exit_code == BAD_USAGE else FAILED


def _check(request: Request) -> None:
    script = request.working_dir / "jobs" / f"{request.command}.py"
    if not script.is_file():
        raise ConfigError(f"{script} is not there: run this in the project's folder, or name that with --working-dir")
    if not request.out.is_absolute():
        raise ConfigError(f"a job needs an absolute path: {request.out} would be removed together with the job")


def _client(address: str | None) -> Any:
    url = address or os.environ.get("RAY_API_SERVER_ADDRESS", "")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"which cluster? Give --address http://HOST:8265 (or RAY_API_SERVER_ADDRESS), not {url!r}"
            if url
            else "which cluster? Give --address http://HOST:8265, or set RAY_API_SERVER_ADDRESS"
        )
    # Ray reads the mode once, when it is imported
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(url)
    except (OSError, RuntimeError, RayError) as error:  # the last: a wrong token, or none
        raise ConfigError(f"no access to {url}: {_one_line(error)}") from error


def _is_same(job: Any, request: Request) -> bool:
    wanted = request.submission_id is not None and job.submission_id == request.submission_id
    return wanted or (job.metadata or {}).get("out") == str(request.out)


def _new_id(request: Request, known: Mapping[str, Any]) -> str:
    if request.submission_id is None:
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return f"{request.command}-{request.out.name}-{now}-{secrets.token_hex(2)}"
    count, job_id = 1, request.submission_id
    while job_id in known:
        count += 1
        job_id = f"{request.submission_id}-{count}"
    return job_id


def _send(client: Any, request: Request, job_id: str) -> None:
    commit = git_sha()
    try:
        client.submit_job(
            entrypoint=request.entrypoint,
            submission_id=job_id,
            # the repository stays behind, and MLflow is to know the commit all the same
            runtime_env={
                "working_dir": str(request.working_dir),
                **({"env_vars": {GIT_SHA: commit}} if commit else {}),
            },
            metadata={
                **request.metadata, "command": request.command, "out": str(request.out), "git_sha": commit or "",
            },
            entrypoint_num_cpus=request.cpus,
            entrypoint_num_gpus=request.gpus,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the cluster did not take the job: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
