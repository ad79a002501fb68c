"""All space groups that amplitudes allow, in the cell as it is given and up to the origin.

The point group P is such that P and -P together are the symmetry of the amplitudes (Friedel's law hides which). The
translations t of its operations obey t(AB) = t(A) + A t(B) modulo the lattice: linear equations for the translations
of the generators, which Smith's normal form solves (the algorithm of Zassenhaus 1948, Comment. Math. Helv. 21, 117).
The solutions fall into classes that differ by more than the origin, finitely many. Those in which a reflection would be
extinct that is there are left out.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from phaseray.phasing.atom_model import Classes, Reflections
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.symmetry import UNEQUAL, AmplitudeSymmetry, Group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEARLY = 0.7
"""Of the most absences that a group explains."""
MOST = 4096
"""Classes of translations of one point group: more than any has in three dimensions."""
# of the mean intensity that the lattice allows, at this resolution: below it a reflection may be extinct, and is
_MAYBE, _SURELY = 0.03, 0.003
_TWELFTHS = 12
_UNEQUAL = 0.02  # R of the amplitudes of one class of a crystal that has this symmetry
_CENTRED = 0.9995  # of the origin peak of the Patterson; less: heavy atoms only seem to be centred


class AllowedGroups:
    """The space groups that the amplitudes of a problem allow.

    Attributes
    ----------
    symmetry : what leaves the amplitudes as they are, and the lattice
    groups : (group, how many absences it explains), the likely ones first
    independent : number of amplitudes that the symmetry does not relate
    """

    def __init__(self, problem: PhaseProblem, reflections: Reflections) -> None:
        # amplitudes that are uncertain differ by as much, unless they were merged
        uncertain = float(reflections.sigma.sum() / reflections.amplitude.sum())
        self.symmetry = AmplitudeSymmetry(
            problem, min(_UNEQUAL + 2 * uncertain, UNEQUAL), _CENTRED - 2 * reflections.noise
        )
        self.independent = len(Classes(reflections.hkl, self.symmetry.rotations).hkl)
        intensity = (reflections.weight * reflections.amplitude) ** 2
        error = 2 * reflections.weight**2 * reflections.amplitude * reflections.sigma
        rotations = self.symmetry.rotations
        if not _is_group(rotations):  # at the limit of R one operation may pass and its products fail
            rotations = np.array([np.eye(3), -np.eye(3)], np.int64)
        self.groups = space_groups(rotations, self.symmetry.centrings, reflections.hkl, intensity, error)

    @property
    def likely(self) -> list[Group]:
        """Those that explain most absences: as many as any, or nearly, for atoms in special positions make more."""
        most = self.groups[0][1] if self.groups else 0
        return [group for group, explained in self.groups if explained >= most - (1 - NEARLY) * abs(most)]


def space_groups(
    rotations: Ints, centrings: Floats, hkl: Ints, intensity: Floats, error: Floats
) -> list[tuple[Group, int]]:
    """Space groups with these rotations of the amplitudes, and how many absences each explains.

    That is the number of its extinct reflections that are surely absent, less those that are only weak.

    Parameters
    ----------
    rotations : (k, 3, 3)
        All of a group with -1, on fractional coordinates; else there are no space groups.
    centrings : (c, 3)
        Of the lattice, in twelfths of the cell, the null one among them.
    hkl : (n, 3)
    intensity, error : (n,)
        Without their fall with resolution, on any scale, and what they may be off.

    Returns
    -------
    Those first that explain the most, of them the larger ones. The groups are modulo the centred lattice; of two that
    are each other's image in a mirror (P4₁ and P4₃) there is one.
    """
    basis = primitive(centrings)
    inverse = np.rint(np.linalg.inv(basis) * _TWELFTHS) / _TWELFTHS
    own = np.rint(inverse @ rotations @ basis).astype(np.int64)
    if abs(inverse @ rotations @ basis - own).max() > 1e-6 or not _is_group(own):
        return []
    # what the centring of the lattice extinguishes says nothing about the group
    turns = hkl @ centrings.T
    there = (abs(turns - np.rint(turns)) < 1e-3).all(1)
    mean = max(float(intensity[there].mean()), 1e-30) if there.any() else 1.0
    hkl, intensity, error = hkl[there], intensity[there] / mean, error[there] / mean
    weak = intensity < _MAYBE + 3 * error
    # what is so uncertain that any intensity would do is no absence
    absent = intensity < np.minimum(_SURELY + 3 * error, _MAYBE)
    found = []
    for point_group in point_groups(own):
        for translations in translation_classes(point_group):
            turned, moved = np.rint(basis @ point_group @ inverse).astype(np.int64), translations @ basis.T
            extinct = extinctions(turned, moved, hkl)
            if not (extinct & ~weak).any():
                explained = int((extinct & absent).sum()) - int((extinct & ~absent).sum())
                found.append((explained, len(turned), turned, moved))
    found.sort(key=lambda each: (-each[0], -each[1]))
    return [(Group(turned, moved), explained) for explained, _, turned, moved in found]


def extinctions(rotations: Ints, translations: Floats, hkl: Ints) -> NDArray[np.bool_]:
    """(n,) reflections that a group extinguishes: hR = h with h·t no whole number for one of its operations."""
    found = np.zeros(len(hkl), bool)
    for rotation, t in zip(rotations, translations, strict=True):
        turn = hkl @ t
        found |= (hkl @ rotation == hkl).all(1) & (abs(turn - np.rint(turn)) > 1e-3)
    return found


def primitive(centrings: Floats) -> Floats:
    """(3, 3) columns: a basis, in fractions of the cell, of the lattice with these centrings."""
    rows = np.concatenate([_TWELFTHS * np.eye(3, dtype=np.int64), np.rint(_TWELFTHS * centrings).astype(np.int64)])
    diagonal, right = smith(rows)
    # rows = S⁻¹ D right⁻¹, so that the rows of D right⁻¹ span what these span
    found: Floats = (diagonal[:, None] * np.linalg.inv(right)).T / _TWELFTHS
    return np.rint(found * _TWELFTHS) / _TWELFTHS


def point_groups(rotations: Ints) -> list[Ints]:
    """The group itself, and its subgroups of half the order without -1, which with their negatives are all of it."""
    proper = rotations[np.rint(np.linalg.det(rotations)) > 0]
    generators = proper[_generators(proper)]
    found = [rotations]
    # without -1: each proper rotation or its negative, as a map of the proper ones onto ±1 says
    for signs in itertools.product((1, -1), repeat=len(generators)):
        made = {np.eye(3, dtype=np.int64).tobytes(): np.eye(3, dtype=np.int64)}
        todo = list(made.values())
        while todo and len(made) <= len(proper):
            a = todo.pop()
            for b, sign in zip(generators, signs, strict=True):
                product = sign * (a @ b)
                if product.tobytes() not in made:
                    made[product.tobytes()] = product
                    todo.append(product)
        if len(made) == len(proper):
            found.append(np.array(list(made.values())))
    return found


def translation_classes(rotations: Ints) -> list[Floats]:
    """(g, 3) translations of each space group with this point group, in a primitive basis, up to origin and hand."""
    numbers = _generators(rotations)
    own = rotations[numbers]
    s = len(own)
    number = {r.tobytes(): i for i, r in enumerate(rotations)}
    # t of each operation from those of the generators: words in them
    word: dict[int, Ints] = {number[np.eye(3, dtype=np.int64).tobytes()]: np.zeros((3, 3 * s), np.int64)}
    todo, conditions = list(word), []
    pick = [np.eye(3 * s, dtype=np.int64)[3 * i : 3 * i + 3] for i in range(s)]
    for a in todo:
        for b, chosen in zip(own, pick, strict=True):
            product, said = number[(rotations[a] @ b).tobytes()], word[a] + rotations[a] @ chosen
            if product in word:
                conditions.append(said - word[product])
            else:
                word[product] = said
                todo.append(product)
    words = np.array([word[i] for i in range(len(rotations))])
    if not conditions:
        return [np.zeros((len(rotations), 3))]
    rows = np.unique(np.concatenate(conditions), axis=0)
    diagonal, right = smith(rows)
    # rows · right · y must be whole, so y is a multiple of 1/d; where d is 0 it is free: that moves the origin
    steps = [range(d) if d > 1 else range(1) for d in diagonal.tolist()]
    if np.prod([len(each) for each in steps], dtype=float) > MOST:
        return []
    found, seen = [], set[tuple[int, ...]]()
    for picked in itertools.product(*steps):
        other = tuple(-c % max(len(each), 1) for c, each in zip(picked, steps, strict=True))
        if other in seen:  # the other hand
            continue
        seen.add(picked)
        y = np.array([c / len(each) for c, each in zip(picked, steps, strict=True)])
        t = words @ (right @ y)
        found.append(t - np.floor(t + 1e-9))
    return found


def smith(matrix: Ints) -> tuple[Ints, Ints]:
    """Diagonal (columns,) and R of D = L · matrix · R, with L and R of determinant ±1 and D diagonal (Smith 1861).

    That one entry divides the next is not asked for. SymPy has it too, at a second for a cubic group, this takes 20 ms.
    """
    d = matrix.astype(object)
    rows, columns = d.shape
    right = np.eye(columns, dtype=object)
    diagonal = np.zeros(columns, np.int64)
    for k in range(min(rows, columns)):
        while True:
            rest = abs(d[k:, k:])
            there = np.argwhere(rest)
            if not len(there):
                return diagonal, right.astype(np.int64)
            i, j = min(there.tolist(), key=lambda at: rest[at[0], at[1]])
            d[[k, k + i]] = d[[k + i, k]]
            d[:, [k, k + j]], right[:, [k, k + j]] = d[:, [k + j, k]], right[:, [k + j, k]]
            pivot = d[k, k]
            for row in range(k + 1, rows):
                d[row] -= (d[row, k] // pivot) * d[k]
            for column in range(k + 1, columns):
                times = d[k, column] // pivot
                d[:, column] -= times * d[:, k]
                right[:, column] -= times * right[:, k]
            if not d[k + 1 :, k].any() and not d[k, k + 1 :].any():
                break
        diagonal[k] = abs(d[k, k])
    return diagonal, right.astype(np.int64)


def _generators(rotations: Ints) -> list[int]:
    """Numbers of few operations that make all the others."""
    made = {np.eye(3, dtype=np.int64).tobytes()}
    found: list[int] = []
    order = sorted(range(len(rotations)), key=lambda i: -_order(rotations[i]))
    for i in order:
        if rotations[i].tobytes() in made:
            continue
        found.append(i)
        made = _closure(rotations[found], len(rotations))
    return found


def _closure(generators: Ints, most: int) -> set[bytes]:
    identity = np.eye(3, dtype=np.int64)
    made, todo = {identity.tobytes()}, [identity]
    while todo and len(made) <= most:
        a = todo.pop()
        for b in generators:
            product = a @ b
            if product.tobytes() not in made:
                made.add(product.tobytes())
                todo.append(product)
    return made


def _order(rotation: Ints) -> int:
    power, n = rotation, 1
    while (power != np.eye(3)).any() and n < 7:
        power, n = power @ rotation, n + 1
    return n


def _is_group(rotations: Ints) -> bool:
    every = {r.tobytes() for r in rotations}
    return len(every) == len(rotations) and all((a @ b).tobytes() in every for a in rotations for b in rotations)
