"""Object stores on this machine, each with a bucket `crystals`: moto for s3://, gcp-storage-emulator for gs://."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

BUCKET = "crystals"


class Store(NamedTuple):
    """Where the bucket is, and the options that lead there."""

    address: str
    options: dict[str, Any]


@contextmanager
def s3_store(files: Mapping[str, bytes]) -> Iterator[Store]:
    server_module = pytest.importorskip(
        "moto.server", reason="the S3 server of the tests is moto: pip install moto[s3]"
    )
    from pyarrow import fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_override": f"{host}:{port}", "scheme": "http", "region": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = fs.S3FileSystem(**options, allow_bucket_creation=True)
        client.create_dir(BUCKET)
        for name, content in files.items():
            with client.open_output_stream(f"{BUCKET}/{name}", compression=None) as stream:
                stream.write(content)
        yield Store(f"s3://{BUCKET}", options)
    server.stop()


@contextmanager
def gs_store(files: Mapping[str, bytes]) -> Iterator[Store]:
    """Objects are sent as gsutil sends them: nothing marks a folder but the names of what is in it."""
    pytest.importorskip("gcp_storage_emulator", reason="pip install gcp-storage-emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}", "--quiet"]
    # in a process of its own: pyarrow asks for the size of an object with Python's lock held
    process = subprocess.Popen(
        [sys.executable, "-m", "gcp_storage_emulator", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(f"http://127.0.0.1:{port}/", process)
        for name, content in files.items():
            _send(f"http://127.0.0.1:{port}/upload/storage/v1/b/{BUCKET}/o?name={quote(name, safe='')}", content)
        yield Store(
            f"gs://{BUCKET}",
            {
                "endpoint_override": f"127.0.0.1:{port}", "scheme": "http", "anonymous": True,
                "retry_time_limit": 5,
            },
        )  # fmt: skip
    finally:
        process.kill()
        process.wait(10)


def _send(url: str, content: bytes) -> None:
    # the server takes an empty body for none at all
    body = content or b"--+\r\n\r\n{}\r\n--+\r\n\r\n\r\n--+--\r\n"
    kind, how = ("application/octet-stream", "media") if content else ("multipart/related; boundary=+", "multipart")
    request = urllib.request.Request(f"{url}&uploadType={how}", data=body, headers={"Content-Type": kind})
    urllib.request.urlopen(request).close()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except urllib.error.URLError:
            assert process.poll() is None, "the server of gs:// did not start"
            assert time.monotonic() < until
            time.sleep(0.05)


STORES: dict[str, Callable[[Mapping[str, bytes]], AbstractContextManager[Store]]] = {"s3": s3_store, "gs": gs_store}
