"""Whose a training's folder is: what may change when a training is gone on with, and what makes it another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from phaseray.config import ConfigError, TrainConfig, digest, to_yaml
from phaseray.pipeline.storage import read_json, write_json, write_text

__all__ = ["Identity", "enter"]

# how long, and on what: nothing of it changes what a step does to the weights
HOW_LONG_AND_WHERE = {
    "epochs", "max_minutes", "early_stopping", "workers", "use_gpu", "threads_per_worker", "compile", "max_failures",
    "checkpoint_every_steps", "keep_best", "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """What a training's run.json holds: of all that goes on with it, the same.

    Attributes
    ----------
    key : names all that the weights depend on but the epochs and the machines
    name : under which its checkpoints are kept
    """

    key: str
    name: str
    seed: int
    dataset_digest: str
    command: str = "train"


def enter(output: Path, config: TrainConfig, dataset_digest: str, seed: int, name: str) -> tuple[Identity, list[str]]:
    """Make or re-enter the folder of a training; what it is, and lines about what changed and may.

    Its config.yaml stays that of before until the training is gone on with.

    Raises
    ------
    ConfigError
        The folder holds another training, or what another command made; it names what differs.
    """
    asked = Identity(digest(_weighty(config), dataset_digest, seed), name, seed, dataset_digest)
    mark = output / "run.json"
    known = read_json(mark) if mark.exists() else {}
    if known and known.get("command") != asked.command:
        raise ConfigError(f"{output} is of `phaseray {known.get('command')}`: choose another --out")
    before, now = _flat(_written(output)), _flat(config.model_dump(mode="json"))
    changed = {k: (before[k], now.get(k)) for k in before if before[k] != now.get(k)} if before else {}
    changed |= {k: (None, v) for k, v in now.items() if before and k not in before}
    changed.pop("seed", None)
    free = {k for k in changed if k in HOW_LONG_AND_WHERE and not (k == "epochs" and config.schedule != "constant")}
    wrong = [f"train.{k}: {_told(a)} there, {_told(b)} now" for k, (a, b) in changed.items() if k not in free]
    wrong += [
        f"{what}: {known[k]} there, {getattr(asked, k)} now"
        for k, what in (("seed", "the seed"), ("dataset_digest", "the data set's digest"))
        if known and known[k] != getattr(asked, k)
    ]
    if wrong:
        advice = f"Choose another --out, or delete that folder; train.start_from={output} begins with its weights"
        if "epochs" in changed and "epochs" not in free:
            laid_out = (
                f"With train.schedule={config.schedule} the learning rate of every step depends on train.epochs. "
            )
            advice = laid_out + advice
        raise ConfigError("\n  ".join([f"{output} holds another training:", *wrong, advice]))
    identity = Identity(**known) if known else asked
    if not before:
        write_text(output / "config.yaml", to_yaml(config))
    if not known:
        write_json(mark, vars(identity))
    return identity, [
        f"train.{k} was {_told(changed[k][0])}, and is {_told(changed[k][1])} from here on" for k in sorted(free)
    ]


def _weighty(config: TrainConfig) -> dict[str, Any]:
    """All that the weights depend on; the learning rate of a step depends on how many there are to be."""
    free = HOW_LONG_AND_WHERE if config.schedule == "constant" else HOW_LONG_AND_WHERE - {"epochs"}
    return config.model_dump(mode="json", exclude=free)


def _written(output: Path) -> dict[str, Any]:
    """The configuration of before. Keys that it did not know yet had their defaults."""
    try:
        content = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))
    except OSError:
        return {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{output / 'config.yaml'} is not YAML any more: choose another --out") from error
    return {**TrainConfig().model_dump(mode="json"), **content} if isinstance(content, dict) else {}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _told(value: Any) -> str:
    return "none" if value is None else str(value)
