"""Diffraction: pure functions from crystals to structure factors and maps, over arrays of NumPy or CuPy."""
