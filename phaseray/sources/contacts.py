"""How near molecules come to one another, and how much room their atoms take."""

from __future__ import annotations

import gemmi
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_VDW = np.array([0.0, *(gemmi.Element(z).vdw_r for z in range(1, 119))])
_COVALENT = np.array([0.0, *(gemmi.Element(z).covalent_r for z in range(1, 119))])
_METAL = np.array([False, *(gemmi.Element(z).is_metal for z in range(1, 119))])
_ACCEPTORS = (7, 8, 9, 16, 17, 35, 53)
_TOUCH = 0.95  # of the sum of the van der Waals radii
_HYDROGEN_BOND = 1.12  # Å: what polar hydrogen takes beside the acceptor, so that H…O is 1.9 Å
# Å³ an atom in molecular crystals, with which benzene and naphthalene come out at 117 and 186 Å³ a molecule
# (124 and 180 are measured); after Hofmann (2002), Acta Cryst. B58, 489
_VOLUMES = {1: 4.5, 6: 15.0, 7: 13.0, 8: 12.0, 9: 12.0, 15: 27.0, 16: 25.0, 17: 25.0, 35: 30.0, 53: 40.0}
_OTHER_VOLUME = 25.0


def usual_volume(numbers: Ints) -> float:
    """Å³ that these atoms take in a molecular crystal."""
    return float(sum(_VOLUMES.get(z, _OTHER_VOLUME) for z in numbers.tolist()))


def contact_distances(numbers: Ints, polar: NDArray[np.bool_]) -> Floats:
    """(n, n) usual distances in Å of atoms of different molecules; `polar` marks hydrogen on N or O."""
    contact = _TOUCH * (_VDW[numbers][:, None] + _VDW[numbers])
    acceptor = np.isin(numbers, _ACCEPTORS)
    bonded = polar[:, None] & acceptor
    short = _HYDROGEN_BOND + 0.52 * _VDW[numbers]
    contact = np.where(bonded, short[None, :], np.where(bonded.T, short[:, None], contact))
    # a bare metal ion takes donors into its shell; in a complex its ligands stand before it
    met = _METAL[numbers][:, None] & acceptor
    coordinated = _COVALENT[numbers][:, None] + _COVALENT[numbers]
    return np.where(met | met.T, coordinated, contact)
