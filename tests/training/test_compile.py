"""torch.compile makes the same network, only faster; without a compiler it is said at once."""

import shutil

import numpy as np
import pytest

from phaseray.config import ConfigError, MlpConfig, TrainConfig, UNetConfig
from phaseray.training.checkpoint import load_checkpoint
from phaseray.training.loop import fit, predict
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


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
@pytest.mark.parametrize("options", [{"ema": 0.9}, {"model": MlpConfig(hidden=(16,))}], ids=["unet", "mlp"])
def test_a_compiled_network_has_the_losses_of_the_plain_one(tmp_path, options, monkeypatch):
    # what a killed run left half-written in the common cache would be taken for a library
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    data = MemoryData.of(train=10)  # the last batch of an epoch has 2 crystals of 4
    ended = [
        fit(TrainingState.fresh(config.model_copy(update=options), data, seed=0), data) for config in (SMALL, COMPILED)
    ]
    plain, compiled = ([(e.train_loss, e.val_loss) for e in state.history] for state in ended)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)
    ended[1].save(tmp_path)
    model, meta = load_checkpoint(tmp_path)
    (maps,) = predict(model, meta, data.splits["val"])
    (wanted,) = predict(ended[1].to_use, meta, data.splits["val"])
    np.testing.assert_array_equal(maps, wanted)
