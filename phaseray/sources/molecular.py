"""Artificial molecular crystals: molecules with hydrogen, packed until they touch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from phaseray.config import MolecularSource
from phaseray.crystal import Crystal
from phaseray.sources.contacts import contact_distances, usual_volume
from phaseray.sources.molecules import Molecule, draw_companion, draw_molecule, metal_complex
from phaseray.sources.packing import Bodies, pack
from phaseray.sources.periodic import orthogonalization_of
from phaseray.sources.space_groups import ORGANIC, SpaceGroup, shape, space_group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ATTEMPTS = 40
_LOOSEST = 1.35  # times the volume that is usual
_CENTRAL_BOND = 1.5  # Å, across the inversion centre


def molecular_crystal(config: MolecularSource, seed: int, index: int) -> Crystal:
    """Crystal `index` of the stream `seed`; the same bytes on one version of RDKit.

    One molecule or two in the asymmetric unit, or half a molecule on an inversion centre; some with
    water, an ion or a complex beside it. `space_group` is None on primitive axes of a centred lattice.

    Raises
    ------
    ValueError
        RDKit is not installed, or nothing can be packed into the volume asked for.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(2,)))
    for _ in range(_ATTEMPTS):
        group = _space_group(config, rng)
        drawn = _contents(config, rng, group)
        if drawn is None:
            continue
        molecules, on_centre = drawn
        volume = len(group.rotations) * sum(usual_volume(m.numbers) for m in molecules)
        if not config.volume[0] <= volume <= config.volume[1]:
            continue
        edges, angles = shape(group.number, rng, 0.25)
        m = orthogonalization_of(edges, angles) @ group.axes
        bodies = _bodies(rng, molecules, on_centre)
        packed = pack(group, m / np.linalg.det(m) ** (1 / 3), volume, bodies)
        if packed is None:
            continue
        m, bodies = packed
        looseness = np.linalg.det(m) / volume
        if looseness < _LOOSEST and config.volume[0] <= np.linalg.det(m) <= config.volume[1]:
            break
    else:
        raise ValueError("no artificial molecular crystal came about: widen `volume` or `space_groups`")
    lengths = np.linalg.norm(m, axis=0)
    cosines = np.array([m[:, 1] @ m[:, 2], m[:, 2] @ m[:, 0], m[:, 0] @ m[:, 1]]) * lengths / lengths.prod()
    angles = np.degrees(np.arccos(cosines))
    angles = np.where(np.abs(angles - np.rint(angles)) < 1e-9, np.rint(angles), angles)
    x = np.concatenate([c + p @ np.linalg.inv(m).T for c, p in zip(bodies.centres, bodies.places, strict=True)])
    numbers = np.concatenate(bodies.numbers)
    positions = np.einsum("mij,nj->mni", group.rotations, x) + group.translations[:, None]
    operators = len(group.rotations)
    return Crystal(
        cell=np.concatenate([lengths, angles]),
        numbers=np.tile(numbers, operators),
        positions=positions.reshape(-1, 3),
        u_iso=np.tile(_displacements(config, rng, bodies), operators),
        space_group=group.symbol,
        space_group_number=group.number,
        id=f"molecular/{seed}/{index}",
        source="molecular",
    )


def _space_group(config: MolecularSource, rng: np.random.Generator) -> SpaceGroup:
    numbers = list(config.space_groups or ORGANIC)
    weights = np.array([ORGANIC.get(n, 0.2) for n in numbers])
    number = int(rng.choice(numbers, p=weights / weights.sum()))
    return space_group(number, bool(rng.random() < config.primitive_fraction))


def _contents(
    config: MolecularSource, rng: np.random.Generator, group: SpaceGroup
) -> tuple[list[Molecule], bool] | None:
    """Molecules of the asymmetric unit, and whether the first is half a molecule about an inversion centre."""
    volume = np.exp(rng.uniform(*np.log(config.volume)))
    room = volume / len(group.rotations)
    companion = draw_companion(rng) if rng.random() < config.companion_fraction else None
    if companion is not None:
        room -= usual_volume(companion.numbers)
    two = room > 250 and rng.random() < 0.3
    heavy = round(room / 18 / (2 if two else 1))
    if not config.heavy_atoms[0] <= heavy <= config.heavy_atoms[1]:
        return None
    if rng.random() < config.complex_fraction and heavy >= 4:
        first: Molecule | None = metal_complex(rng)
    else:
        first = draw_molecule(rng, max(heavy, 1))
    if first is None:
        return None
    molecules = [first]
    inversion = bool(((group.rotations == -np.eye(3)).all((1, 2)) & (np.abs(group.translations) < 1e-9).all(1)).any())
    on_centre = False
    if inversion and rng.random() < 0.25 and (half := _half(rng, first)) is not None:
        molecules, on_centre = [half], True
    elif two:
        same = rng.random() < 0.6
        second = first if same else draw_molecule(rng, heavy)
        molecules += [] if second is None else [second]
    if companion is not None:
        molecules.append(companion)
    return molecules, on_centre


def _half(rng: np.random.Generator, molecule: Molecule) -> Molecule | None:
    """Half of a molecule, its inversion centre at the origin: two of these joined in place of a hydrogen."""
    hydrogens = np.flatnonzero((molecule.numbers == 1) & ~molecule.polar)
    for h in rng.permutation(hydrogens)[:4].tolist():
        apart = np.linalg.norm(molecule.places - molecule.places[h], axis=1)
        apart[h] = np.inf
        parent = int(apart.argmin())
        out = (molecule.places[h] - molecule.places[parent]) / apart[parent]
        rest = np.arange(len(molecule.numbers)) != h
        places = (molecule.places - molecule.places[parent] - _CENTRAL_BOND / 2 * out)[rest]
        numbers = molecule.numbers[rest]
        across = np.linalg.norm(places[:, None] + places, axis=-1)
        own = np.delete(np.arange(len(rest)), h) == parent
        across[np.ix_(own, own)] = np.inf
        light = (numbers == 1).astype(int)
        least = np.array([2.4, 2.0, 1.8])[light[:, None] + light]
        if (across >= least).all():
            return Molecule(numbers, places, molecule.polar[rest])
    return None


def _bodies(rng: np.random.Generator, molecules: list[Molecule], on_centre: bool) -> Bodies:
    numbers = [m.numbers for m in molecules]
    polar = np.concatenate([m.polar for m in molecules])
    centres = rng.random((len(molecules), 3))
    if on_centre:
        centres[0] = 0.0
    turned = [m.places @ Rotation.random(rng=rng).as_matrix().T for m in molecules]
    fixed = np.arange(len(molecules)) == (0 if on_centre else -1)
    return Bodies(numbers, turned, centres, fixed, contact_distances(np.concatenate(numbers), polar))


def _displacements(config: MolecularSource, rng: np.random.Generator, bodies: Bodies) -> Floats:
    """(n,) Å²: more at the ends of a molecule, hydrogen 1.2 times that of the atom it is on."""
    level = rng.uniform(*config.u_iso)
    values = []
    for numbers, places in zip(bodies.numbers, bodies.places, strict=True):
        out = np.linalg.norm(places - places.mean(0), axis=1)
        u = level * (0.7 + 0.6 * out / max(out.max(), 1.0)) * np.exp(0.15 * rng.standard_normal(len(numbers)))
        heavy = np.flatnonzero(numbers != 1)
        if len(heavy):
            parent = heavy[np.linalg.norm(places[:, None] - places[heavy], axis=-1).argmin(1)]
            u = np.where(numbers == 1, 1.2 * u[parent], u)
        values.append(u)
    low, high = config.u_iso
    clipped: Floats = np.clip(np.concatenate(values), low, high)
    return clipped
