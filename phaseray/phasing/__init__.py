"""Phases from amplitudes: zero phases, charge flipping and the network, behind one call."""
