"""From the asymmetric unit to the whole cell, atoms on special positions once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Rejection
from phaseray.sources.cif_lattice import Lattice
from phaseray.sources.cif_symmetry import Symmetry

# Å between images of one site. Nearer ones are one atom on a special position, unless the file lets them be
# there by turns (occupancy times images at most 1); even then what is nearer than MERGE_SPLIT is one atom.
MERGE = 0.5
MERGE_SPLIT = 0.06
SHARE_TOLERANCE = 0.05
_LARGEST_STABILISER = 48
_ROW, _COLUMN = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]


@dataclass(frozen=True, eq=False)
class Expansion:
    """N atoms of the cell, in the order of their sites."""

    site: NDArray[np.intp]  # (N,) index of the site
    positions: Floats  # (N, 3), in [0, 1)
    u_aniso: Floats | None  # (N, 6)


def expand(
    positions: Floats,
    occupancy: Floats,
    general: NDArray[np.bool_],
    u_aniso: Floats | None,
    symmetry: Symmetry,
    lattice: Lattice,
    max_atoms: int,
) -> Expansion:
    """Apply every operator to every site.

    `general` (n,) marks sites that the file says are on no special position: if their occupancy permits,
    they are there by turns with their images, however near these are.
    Sites near a special position are moved onto it: to the mean of the images that coincide there.
    Displacement tensors turn with their atoms, U' = (N⁻¹RN) U (N⁻¹RN)ᵀ with N = diag(a*, b*, c*)
    (Trueblood et al. 1996, Acta Cryst. A52, 770), and become what the site symmetry permits.

    Raises
    ------
    Rejection
        too_large: more than `max_atoms`.
    """
    n, m = len(positions), len(symmetry)
    if n * m > max_atoms * _LARGEST_STABILISER:
        raise Rejection("too_large", f"{n} sites under {m} operators make more than {max_atoms} atoms")
    x = positions
    if m == 1:
        if n > max_atoms:
            raise Rejection("too_large", f"{n} atoms in the cell, the limit is {max_atoms}")
        return Expansion(np.arange(n), _wrapped(x), u_aniso)
    columns = symmetry.rotations.reshape(3 * m, 3).T
    images = (x @ columns).reshape(n, m, 3) + symmetry.translations
    shifts = images - x[:, None]
    shifts -= np.rint(shifts)
    cartesian = shifts @ lattice.orthogonalization.T
    distances2 = np.einsum("nma,nma->nm", cartesian, cartesian)
    near = distances2 < MERGE**2

    keep = np.ones((n, m), bool)
    scale = lattice.reciprocal[_ROW] * lattice.reciprocal[_COLUMN]
    beta = None if u_aniso is None else u_aniso * scale
    special = np.flatnonzero(near.sum(1) > 1)
    if len(special):
        x = x.copy()
        stabilisers = near[special]
        for row, i in enumerate(special.tolist()):
            here = occupancy[i]
            if here < 1:  # the elements that share a site share its fate
                here = occupancy[np.abs(positions - positions[i]).max(1) < 1e-4].sum()
            stabilisers[row], keep[i] = _stabiliser(symmetry, distances2[i], stabilisers[row], here, general[i])
        share = stabilisers / stabilisers.sum(1, keepdims=True)
        x[special] += np.einsum("sm,sma->sa", share, shifts[special])
        images[special] = (x[special] @ columns).reshape(-1, m, 3) + symmetry.translations
        if beta is not None:
            beta[special] = np.einsum("sm,mij,sj->si", share, symmetry.tensor_action, beta[special])
    count = int(keep.sum())
    if count > max_atoms:
        raise Rejection("too_large", f"{count} atoms in the cell, the limit is {max_atoms}")
    site, operator = np.nonzero(keep)
    turned = None
    if beta is not None:
        turned = (beta @ symmetry.tensor_action.reshape(6 * m, 6).T).reshape(n, m, 6)[site, operator] / scale
    return Expansion(site, _wrapped(images[site, operator]), turned)


def _stabiliser(
    symmetry: Symmetry, distances2: Floats, near: NDArray[np.bool_], occupancy: float, general: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Operators that leave the site where it is, and one operator for each of its images: two (m,) masks."""
    if general and occupancy * near.sum() <= 1 + SHARE_TOLERANCE:
        near = np.arange(len(symmetry)) == 0
    else:
        same = distances2 < MERGE_SPLIT**2
        if occupancy * near.sum() / same.sum() <= 1 + SHARE_TOLERANCE:
            near = same
    kept = symmetry.coset_representatives(near)
    radius = MERGE / 2
    while kept is None:
        # The operators within the radius are no group: the site is near two special positions. Take the nearer.
        near = distances2 < radius**2
        near[0] = True
        kept = symmetry.coset_representatives(near)
        radius /= 2
    return near, kept


def _wrapped(x: Floats) -> Floats:
    x = x - np.floor(x)
    x[x >= 1] = 0.0
    return x
