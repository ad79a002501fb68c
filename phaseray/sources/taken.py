"""Ids that are taken, in eight bytes each, so that a million of them are no burden."""

from __future__ import annotations

import hashlib

import numpy as np

_RECENT = 4096  # in a set, as a sorted array is costly to add to


class TakenIds:
    """Makes ids unique. Two ids of one hash (1 in 40 million for a million ids) are taken for the same."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()
        self._times: dict[str, int] = {}  # of the ids that came again

    def unique(self, id: str) -> str:
        """The id, or with an ordinal where it came before: "x.cif", "x.cif#2", "x.cif#3"."""
        name = id
        while not self._take(name):
            self._times[id] = self._times.get(id, 1) + 1
            name = f"{id}#{self._times[id]}"
        return name

    def _take(self, id: str) -> bool:
        key = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())
        place = self._sorted.searchsorted(np.uint64(key))
        if key in self._recent or (place < len(self._sorted) and self._sorted[place] == key):
            return False
        self._recent.add(key)
        if len(self._recent) >= _RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            # both halves are in order, which this kind of sort makes use of
            self._sorted = np.sort(np.concatenate([self._sorted, np.sort(recent)]), kind="stable")
            self._recent.clear()
        return True
