"""torch.compile without a compiler."""

import shutil

import pytest

from phaseray.config import ConfigError, TrainConfig, UNetConfig
from phaseray.training.state import TrainingState
from tests.training.memory_data import MemoryData

SMALL = TrainConfig(model=UNetConfig(width=2, depth=2), batch_size=4, epochs=2)
COMPILED = SMALL.model_copy(update={"compile": True})


def test_without_a_compiler_it_is_said_what_to_do(monkeypatch):
    # not CXX: torch reads it once, when it compiles for the first time
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r" is not to be found on .*train\.compile=false"):
        TrainingState.fresh(COMPILED, MemoryData.of(), seed=0)
    # who only uses such a network needs none
    TrainingState.fresh(SMALL, MemoryData.of(), seed=0)
