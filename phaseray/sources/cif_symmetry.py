"""Symmetry operators as text or by Hall symbol, to a group that is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from math import lcm
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Rejection

_DEN = gemmi.Op.DEN
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
# 192 is the order of F m -3 m; odd settings add centring vectors to that.
_MOST_OPERATORS = 768
_FRACTION = re.compile(r"[+-]?\s*\d+/0*[1-9]\d*")  # what is /0 is left for gemmi to refuse
_LONG = re.compile(r"(?<![.\d])\d{8}")  # gemmi's integers overflow unnoticed
# odd, so that no digit of an entry is lost where the product overflows
_HASH = np.random.default_rng(0).integers(1, 2**62, 12) | 1


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The operators x' = R x + t of one group, the identity first.

    Attributes
    ----------
    rotations : (m, 3, 3) float64
    translations : (m, 3) float64
        In [0, 1).
    products : (m, m) int
        products[i, j] is the index of operator i after operator j, lattice translations apart.
    tensor_action : (m, 6, 6) float64
        R S Rᵀ on symmetric tensors S held as 11 22 33 12 13 23.
    space_group, number
        Extended H-M symbol and number in gemmi's table; None for a setting that it does not list.
    """

    rotations: Floats
    translations: Floats
    products: NDArray[np.intp]
    tensor_action: Floats
    space_group: str | None
    number: int | None
    _cosets: dict[bytes, NDArray[np.bool_] | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rotations)

    def coset_representatives(self, stabiliser: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """(m,) mask: one operator for each image of a point whose stabiliser is the given (m,) mask.

        None where the mask is no group.
        """
        key = stabiliser.tobytes()
        if key not in self._cosets:
            first = self.products[:, stabiliser].min(1)
            closed = stabiliser[self.products[np.ix_(stabiliser, stabiliser)]].all()
            self._cosets[key] = first == np.arange(len(self)) if closed else None
        return self._cosets[key]

    def mean_metric(self, metric: Floats) -> Floats:
        """(3, 3) metric tensor averaged over the group: the nearest that the group permits."""
        mean: Floats = (self._metric_mean @ metric.ravel()).reshape(3, 3)
        return mean

    @cached_property
    def _metric_mean(self) -> Floats:
        """(9, 9): mean of G → RᵀGR."""
        mean: Floats = np.einsum("mki,mlj->ijkl", self.rotations, self.rotations).reshape(9, 9) / len(self)
        return mean


@lru_cache(maxsize=1024)
def symmetry_from_triplets(triplets: tuple[str, ...]) -> Symmetry:
    """From operators as text ('-x, y+1/2, -z'); translations of 1 and more are fine.

    Raises
    ------
    Rejection
        bad_symmetry: not readable, or no group.
    """
    if len(triplets) > _MOST_OPERATORS:
        raise Rejection("bad_symmetry", f"{len(triplets)} symmetry operators are more than any space group has")
    return _group([_operator(triplet) for triplet in triplets])


@lru_cache(maxsize=1024)
def symmetry_from_hall(hall: str) -> Symmetry:
    """From a Hall symbol. Raises Rejection (bad_symmetry) if there is no such symbol."""
    try:
        operations = gemmi.symops_from_hall(hall.replace("_", " "))
    except (ValueError, RuntimeError) as error:
        raise Rejection("bad_symmetry", f"the Hall symbol {hall!r} cannot be read: {error}") from error
    return _group([(op.rot, [Fraction(t, _DEN) for t in op.tran]) for op in operations])


def shared_operators(triplets: tuple[str, ...], symmetry: Symmetry) -> int:
    """How many of the operators belong to the group."""
    known = {(tuple(r.ravel()), tuple(t)) for r, t in zip(symmetry.rotations, symmetry.translations, strict=True)}
    count = 0
    for triplet in triplets:
        rotation, translation = _operator(triplet)
        key = tuple(np.array(rotation).ravel() / _DEN), tuple(float(t % 1) for t in translation)
        count += key in known
    return count


_Operator = tuple[list[list[int]], list[Fraction]]


def _operator(triplet: str) -> _Operator:
    """Rotation in units of 1/24 and translation."""
    if _LONG.search(triplet):
        raise Rejection("bad_symmetry", f"the symmetry operator {triplet[:60]!r} has a number that is too long")
    try:
        op = gemmi.Op(triplet)
        return op.rot, [Fraction(t, _DEN) for t in op.tran]
    except (ValueError, RuntimeError) as error:
        message = error
    # gemmi holds translations in 1/24. Others are lawful where the origin is not on a symmetry element.
    translation = []
    parts = triplet.split(",")
    for k, part in enumerate(parts):
        translation.append(sum((Fraction(t.replace(" ", "")) for t in _FRACTION.findall(part)), Fraction(0)))
        parts[k] = _FRACTION.sub("", part)
    try:
        if max(t.denominator for t in translation) > 10_000:
            raise ValueError("a translation is no simple fraction")
        return gemmi.Op(",".join(parts)).rot, translation
    except (ValueError, RuntimeError):
        raise Rejection("bad_symmetry", f"the symmetry operator {triplet!r} cannot be read: {message}") from message


def _group(operators: list[_Operator]) -> Symmetry:
    denominator = lcm(_DEN, *(x.denominator for _, t in operators for x in t))
    r = np.array([rot for rot, _ in operators]) // _DEN
    if np.abs(r).max() > 2 or (np.abs(np.rint(np.linalg.det(r))) != 1).any() or denominator > 10**9:
        raise Rejection("bad_symmetry", "a symmetry operator is no rotation, inversion or reflection of a lattice")
    t = np.array([[int(x * denominator) for x in tran] for _, tran in operators]) % denominator
    if denominator == _DEN:
        distinct = np.sort(np.unique(_keys(r, t), return_index=True)[1])
        r, t = r[distinct], t[distinct]
    is_identity = (r == np.eye(3)).all((1, 2)) & (t == 0).all(1)
    order = np.argsort(~is_identity, kind="stable")
    r, t = r[order], t[order]
    products_r = r[:, None] @ r[None]
    products_t = (np.einsum("iab,jb->ija", r, t) + t[:, None]) % denominator
    if denominator == _DEN:
        keys = _keys(r, t)
        rank = keys.argsort()
        products = rank[np.searchsorted(keys, _keys(products_r, products_t), sorter=rank).clip(max=len(keys) - 1)]
        closed = (r[products] == products_r).all() and (t[products] == products_t).all()
    else:
        products, closed = _nearest(r, t / denominator, products_r, products_t / denominator)
    if not is_identity.any() or not closed:
        raise Rejection("bad_symmetry", f"the {len(operators)} symmetry operators are no group")
    number = name = None
    if denominator == _DEN:
        known = gemmi.find_spacegroup_by_ops(gemmi.GroupOps([_gemmi_op(*pair) for pair in zip(r, t, strict=True)]))
        number, name = (known.number, known.xhm()) if known else (None, None)
    return Symmetry(r.astype(float), t / denominator, products, _tensor_action(r), name, number)


def _nearest(r: NDArray[np.int64], t: Floats, products_r: NDArray[np.int64], products_t: Floats) -> tuple[Any, bool]:
    """Indices of the products among operators whose translations are fractions rounded from decimals."""
    if len(r) > 96:
        return None, False
    apart = products_t[:, :, None] - t
    apart = np.abs(apart - np.rint(apart)).max(-1) + (products_r[:, :, None] != r).any((-1, -2))
    return apart.argmin(-1), bool(apart.min(-1).max() < 1e-4)


def _gemmi_op(rotation: NDArray[np.int64], translation: NDArray[np.int64]) -> gemmi.Op:
    op = gemmi.Op()
    op.rot = (rotation * _DEN).tolist()
    op.tran = translation.tolist()
    return op


def _keys(r: NDArray[np.int64], t: NDArray[np.int64]) -> NDArray[np.int64]:
    """An integer for each operator: a hash, so that equality must be checked where it matters."""
    entries = np.concatenate([r.reshape(*r.shape[:-2], 9), t], axis=-1)
    keys: NDArray[np.int64] = (entries * _HASH).sum(-1)
    return keys


def _tensor_action(r: NDArray[np.int64]) -> Floats:
    action = np.empty((len(r), 6, 6))
    for row, (i, j) in enumerate(_PAIRS):
        for column, (k, m) in enumerate(_PAIRS):
            action[:, row, column] = r[:, i, k] * r[:, j, m]
            if k != m:
                action[:, row, column] += r[:, i, m] * r[:, j, k]
    return action
