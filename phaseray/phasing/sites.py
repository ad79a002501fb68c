"""Where atoms may sit in a space group: its special positions, and samples of those that are free to move.

And all ways to share such sites out to the elements of a formula.

Legend: n samples; m reflections that the group does not relate; g operations; r coordinates that are free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseray.phasing.atom_model import IN_PLACE, MERGED, NEAREST, Frame

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = tuple[int, int]
"""Atoms in the cell, and coordinates that are free."""
Way = tuple[tuple[int, Kind], ...]
"""Of each orbit the number of its element in the formula, and the kind of its sites."""

SPACE = (5.5, 120.0)
"""Å³ that an atom takes, at least and at most: in diamond, and in caesium."""
ORBITS = 12
"""At most, of all elements."""
_USUAL_SPACE = 15.0
_POINTS, _SAMPLES = 1500, 400  # tried, and kept of one kind
_CAPTURE = (2.0, 1.3, MERGED)  # Å: a point is moved to a special position where its images are nearer than this
_BLOCK = 200
_STEPS = 100_000


@dataclass(frozen=True, eq=False)
class Sites:
    """
    positions : (n, 3)
    keeping : (n,) operations that keep each
    free : (n, 3, 3), as of an `AtomModel`
    waves : (n, m) complex64, Σ exp(2πi h·x) over the orbit
    kinds : numbers of the samples of each kind; those without freedom are all different orbits
    """

    frame: Frame
    positions: Floats
    keeping: Ints
    free: Floats
    waves: NDArray[np.complex64]
    kinds: Mapping[Kind, Ints]

    @classmethod
    def of(cls, frame: Frame, rng: np.random.Generator) -> Sites:
        """Random points, moved to special positions where they are near one; fewer where they crowd the cell."""
        starts = np.array_split(rng.random((_POINTS, 3)), len(_CAPTURE))
        x = np.concatenate([_settled(frame, own, radius) for own, radius in zip(starts, _CAPTURE, strict=True)]) % 1
        distance = frame.length(_images(frame, x) - x)
        keeps = distance < IN_PLACE
        good = ~(~keeps & (distance < NEAREST)).any(0)
        x, keeps = x[good], keeps[:, good].T
        kinds: dict[Kind, list[int]] = {}
        bases: dict[bytes, Floats] = {}
        kept: list[int] = []
        for i, own in enumerate(keeps):
            basis = bases.setdefault(own.tobytes(), frame.freedom(own))
            kind = (len(frame.rotations) // int(own.sum()), int(basis.any(0).sum()))
            have = kinds.setdefault(kind, [])
            others = x[[kept[j] for j in have]]
            known = not kind[1] and len(others) and frame.length(others[:, None] - frame.images(x[i])).min() < NEAREST
            if len(have) < _SAMPLES and not known:
                have.append(len(kept))
                kept.append(i)
        x, keeping = x[kept], keeps[kept].sum(1)
        waves = [frame.waves(x[a : a + _BLOCK]).sum(1) for a in range(0, len(x), _BLOCK)]
        waves = waves or [np.empty((len(frame), 0), np.complex64)]
        return cls(
            frame, x, keeping, np.array([bases[keeps[i].tobytes()] for i in kept]).reshape(-1, 3, 3),
            (np.concatenate(waves, 1) / keeping).T.astype(np.complex64),
            {kind: np.array(numbers) for kind, numbers in sorted(kinds.items())},
        )  # fmt: skip


def ways(kinds: Mapping[Kind, Ints], counts: tuple[int, ...], orbits: int = ORBITS) -> Iterator[Way]:
    """All ways to give each element its number of atoms in the cell; a place without freedom is given once.

    After _STEPS of the search it ends: where there are so many ways, all are not tried anyway.
    """
    names = list(kinds)
    left_to_do = iter(range(_STEPS))
    places = [len(kinds[kind]) if not kind[1] else orbits for kind in names]

    def shares(left: int, at: int, room: list[int], most: int) -> Iterator[tuple[int, ...]]:
        """Orbits of each kind, from number `at` on, of `left` atoms."""
        if at == len(names):
            if not left:
                yield ()
            return
        if next(left_to_do, None) is None:
            return
        for times in range(min(left // names[at][0], room[at], most) + 1):
            for rest in shares(left - times * names[at][0], at + 1, room, most - times):
                yield (times, *rest)

    def elements(e: int, room: list[int], most: int) -> Iterator[Way]:
        if e == len(counts):
            yield ()
            return
        for share in shares(counts[e], 0, room, most):
            own = tuple((e, kind) for kind, times in zip(names, share, strict=True) for _ in range(times))
            left = [r - times for r, times in zip(room, share, strict=True)]
            for rest in elements(e + 1, left, most - len(own)):
                yield (*own, *rest)

    yield from elements(0, places, orbits)


def freedom(way: Way) -> int:
    """Coordinates that are free."""
    return sum(kind[1] for _, kind in way)


def contents(formula: Mapping[int, int], volume: float, centrings: int = 1) -> list[tuple[int, ...]]:
    """Atoms of each element in a cell of so many Å³, for each number of formula units that fits, the usual first."""
    counts = np.array(list(formula.values()))
    space = volume / int(counts.sum())
    units = [z for z in range(1, int(space / SPACE[0]) + 1) if space / z <= SPACE[1]]
    units.sort(key=lambda z: abs(np.log(space / z / _USUAL_SPACE)))
    found = [tuple(int(z * n) for n in counts) for z in units]
    return [each for each in found if not sum(each) % centrings]


def _images(frame: Frame, x: Floats) -> Floats:
    """(g, n, 3)"""
    found: Floats = x @ frame.rotations.transpose(0, 2, 1) + frame.translations[:, None]
    return found


def _settled(frame: Frame, x: Floats, capture: float) -> Floats:
    """Points (n, 3) moved to special positions that they are near."""
    for radius in (capture, MERGED, MERGED, MERGED):
        off = _images(frame, x) - x
        off -= np.rint(off)
        near = frame.length(off) < radius
        x = x + (off * near[..., None]).sum(0) / near.sum(0)[:, None]
    return x
