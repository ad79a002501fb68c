"""What the tests of phasing share."""

from __future__ import annotations

import pytest
import torch

from phaseray.crystal import Crystal
from phaseray.sources import prototypes


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Grids are small, and threads that wait for one another on a busy machine cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def named(part: str) -> Crystal:
    """The AFLOW prototype with this in its id."""
    index = next(i for i, name in enumerate(prototypes.names()) if part in name)
    return prototypes.prototype(index).with_default_u_iso(0.02)


@pytest.fixture(scope="module")
def marcasite() -> Crystal:
    """FeS2, Pnnm: twelve amplitudes to 2 Å, whose zero phases and whose network's maps are wrong."""
    return named("AB2_oP6_58_a_g-FeS2")
