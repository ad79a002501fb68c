"""Training, validation and test sets without leaks: by a hash of the reduced formula."""

from __future__ import annotations

import hashlib

from phaseray.config import SplitConfig

SPLITS = ("train", "val", "test")


def split_of(reduced_formula: str, config: SplitConfig) -> str:
    """The split of all crystals with this reduced formula: the same on every machine, in any order."""
    digest = hashlib.sha256(reduced_formula.encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < config.test:
        return "test"
    return "val" if draw < config.test + config.val else "train"
