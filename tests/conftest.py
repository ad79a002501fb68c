"""Array modules and private Ray clusters for the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

# Ray reads its authentication mode once, when it is imported, and caches the token: both must
# stand before, and be the same for this process and the clusters that its tests start.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

SHARED = Path(os.environ.get("PHASERAY_SHARED", Path(__file__).parents[1].parent / "shared"))


def _cupy():
    from phaseray import backend

    xp = backend.gpu()
    if xp is None:
        pytest.skip("no CUDA device with CuPy")
    return xp


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PHASERAY_LONG"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: set PHASERAY_LONG=1, as make test-long does"))


@pytest.fixture(params=["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest):
    """The same test on NumPy, on array-api-strict (which allows only what CuPy has too), and on CuPy."""
    if request.param == "numpy":
        return np
    if request.param == "strict":
        return pytest.importorskip("array_api_strict")
    return _cupy()


@contextmanager
def own_home() -> Iterator[Path]:
    """A HOME of the test's own, so that tokens and addresses of other clusters are neither read nor written.

    The path is short: Ray puts Unix sockets below it, and those hold 107 characters.
    """
    home = Path(tempfile.mkdtemp(prefix="pr"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_TMPDIR", str(home))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield home
    shutil.rmtree(home, ignore_errors=True)


def left_of(home: Path) -> list[int]:
    """Ray's processes name a folder below their HOME, or have it in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                texts = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if str(home).encode() in texts:
                found.append(int(folder.name))
    return found


@pytest.fixture
def private_home() -> Iterator[Path]:
    with own_home() as home:
        yield home


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A private Ray of four logical CPUs for the tests of one module."""
    import ray

    from phaseray.config import RayConfig
    from phaseray.pipeline.cluster import connected

    assert not ray.is_initialized()
    with own_home(), connected(RayConfig(num_cpus=4)):
        yield


@pytest.fixture
def shared_data() -> Path:
    """The folder of real crystals beside the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared data in {SHARED} (set PHASERAY_SHARED)")
    return SHARED / "data"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and far slower where others use the cores."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)
