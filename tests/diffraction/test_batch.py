"""Several crystals at once give what each gives by itself."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from phaseray import Crystal, Rejection, backend
from phaseray.diffraction import batch, maps
from phaseray.diffraction.scattering import Probe
from tests.strategies import CELLS, DISPLACEMENTS, random_crystal

SHAPE = (20, 24, 20)


def mixed() -> list[Crystal]:
    """Every system and displacement, with and without a centre, and one that is too wild for a batch."""
    found = [
        random_crystal(CELLS[system], seed=i, n=3 + 4 * i, displacement=displacement)
        for i, system in enumerate(CELLS)
        for displacement in DISPLACEMENTS
    ]
    found += [with_centre(c) for c in found[::3]]
    triclinic = random_crystal(CELLS["triclinic"], seed=4, n=5)
    u_iso = np.array([9.0, 0.01, 0.01, 0.01, 0.01])
    wild = Crystal(cell=triclinic.cell, numbers=triclinic.numbers, positions=triclinic.positions, u_iso=u_iso)
    return [*found, wild]


def with_centre(c: Crystal) -> Crystal:
    """Each atom again at -x."""
    return Crystal(
        cell=c.cell, numbers=np.tile(c.numbers, 2), positions=np.vstack([c.positions, -c.positions]),
        occupancy=np.tile(c.occupancy, 2), u_iso=np.tile(c.u_iso, 2),
        u_aniso=None if c.u_aniso is None else np.tile(c.u_aniso, (2, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("block", [batch.BLOCK, 200_000])
def test_a_batch_agrees_with_one_after_the_other(xp, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(batch, "BLOCK", block)
    several = mixed()
    f, rho = batch.structure_factors_and_densities(several, SHAPE, 0.9, xp=xp)
    assert backend.namespace(f) is backend.namespace(xp.zeros(1))
    f, rho = backend.to_numpy(f), backend.to_numpy(rho)
    assert (f.dtype, rho.dtype) == (np.complex64, np.float32)
    for i, crystal in enumerate(several):
        alone_f, alone_rho = maps.structure_factors_and_density(crystal, SHAPE, 0.9)
        assert_allclose(f[i], alone_f, atol=1e-6 * crystal.n_electrons)
        assert_allclose(rho[i], alone_rho, atol=2e-6 * np.abs(alone_rho).max())


@pytest.mark.parametrize("probe", list(Probe))
def test_every_probe(probe: Probe) -> None:
    several = [random_crystal(CELLS["monoclinic"], seed=i, n=9) for i in range(3)]
    f, _ = batch.structure_factors_and_densities(several, SHAPE, 1.0, probe=probe)
    for i, crystal in enumerate(several):
        alone, _ = maps.structure_factors_and_density(crystal, SHAPE, 1.0, probe=probe)
        assert_allclose(f[i], alone, atol=1e-6 * np.abs(alone).max())


def test_nothing_and_no_atoms() -> None:
    f, rho = batch.structure_factors_and_densities([], SHAPE, 1.0)
    assert (f.shape, rho.shape) == ((0, 20, 24, 11), (0, *SHAPE))
    empty = Crystal(cell=[5.0, 5, 5, 90, 90, 90], numbers=[], positions=np.zeros((0, 3)))
    f, rho = batch.structure_factors_and_densities([empty], SHAPE, 1.0)
    assert not f.any()
    assert not rho.any()


def test_an_element_without_a_form_factor_is_named() -> None:
    oganesson = Crystal(cell=[5.0, 5, 5, 90, 90, 90], numbers=[118], positions=[[0, 0, 0]])
    with pytest.raises(Rejection, match="Og"):
        batch.structure_factors_and_densities([oganesson], (12, 12, 12), 1.0)
