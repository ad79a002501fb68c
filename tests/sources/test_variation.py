"""Variations of real crystals: elements of about the same size, nearly the same places, the same bytes."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from phaseray.sources.prototypes import names, prototype
from phaseray.sources.variation import variation

SPINEL = prototype(names().index("aflow/A2BC4_cF56_227_d_a_e-Al2MgO4"))


def test_elements_are_exchanged_one_to_one_for_others_of_their_size():
    for index in range(30):
        varied = variation(SPINEL, 0, index)
        pairs = set(zip(SPINEL.numbers.tolist(), varied.numbers.tolist(), strict=True))
        assert len(pairs) == len(set(varied.numbers.tolist())) == 3
        for old, new in pairs:
            a, b = gemmi.Element(old), gemmi.Element(new)
            assert a.is_metal == b.is_metal
            assert max(a.covalent_r, b.covalent_r) < 1.15 * min(a.covalent_r, b.covalent_r)
    assert len({variation(SPINEL, 0, i).reduced_formula for i in range(30)}) > 20


def test_places_move_by_little_and_the_cell_by_the_strain_and_the_radii():
    for index in range(30):
        varied = variation(SPINEL, 1, index)
        delta = varied.positions - SPINEL.positions
        moved = np.linalg.norm((delta - np.rint(delta)) @ varied.orthogonalization.T, axis=1)
        assert 0 < moved.max() <= 0.0501
        scale = (varied.volume / SPINEL.volume) ** (1 / 3)
        radii = [np.mean([gemmi.Element(int(z)).covalent_r for z in c.numbers]) for c in (varied, SPINEL)]
        assert scale == pytest.approx(radii[0] / radii[1], rel=0.031)
        assert np.abs(varied.cell[3:] - SPINEL.cell[3:]).max() < 5
        assert varied.space_group_number == 1


def test_hydrogen_stays_and_the_same_seed_gives_the_same_bytes():
    hydride = prototype(next(i for i, n in enumerate(names()) if 1 in prototype(i).numbers))
    varied = variation(hydride, 3, 4)
    assert ((varied.numbers == 1) == (hydride.numbers == 1)).all()
    again = variation(hydride, 3, 4)
    assert varied.positions.tobytes() == again.positions.tobytes()
    assert varied.cell.tobytes() == again.cell.tobytes()
    assert variation(hydride, 4, 4).cell.tobytes() != varied.cell.tobytes()
