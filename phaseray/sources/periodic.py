"""Distances in a lattice: how far every image of a difference is."""

from __future__ import annotations

from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def orthogonalization_of(edges: Floats, angles: Floats) -> Floats:
    """(3, 3) as crystal.orthogonalization_matrix, without building a Crystal to get it."""
    ca, cb, cg = np.cos(np.radians(angles)).tolist()
    sg = sqrt(1 - cg * cg)
    cx = (ca - cb * cg) / sg
    columns = np.array([[1.0, cg, cb], [0.0, sg, cx], [0.0, 0.0, sqrt(1 - cb * cb - cx * cx)]])
    return columns * edges


def _image_counts(orthogonalization: Floats, distance: float) -> list[int]:
    """Per axis, how many cells from the nearest image (in fractions) a vector up to `distance` may lead.

    A vector of length r has a fraction of at most r / w along an axis on which the planes of
    lattice points are w apart, and the nearest image one from -½ to ½. No image at all is needed
    while r < w / 2.
    """
    spacing = 1 / np.linalg.norm(np.linalg.inv(orthogonalization), axis=1)
    return [floor(distance / w + 0.5 + 1e-9) for w in spacing.tolist()]


def lattice_vectors(orthogonalization: Floats, distance: float) -> Floats:
    """(k, 3) lattice vectors in Å, the zero vector first."""
    counts = _image_counts(orthogonalization, distance)
    if not any(counts):
        return np.zeros((1, 3))
    axes = [sorted(range(-n, n + 1), key=abs) for n in counts]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) @ orthogonalization.T


def shortest_translation(orthogonalization: Floats) -> float:
    edges = np.linalg.norm(orthogonalization, axis=0)
    return float(np.linalg.norm(lattice_vectors(orthogonalization, float(edges.min()))[1:], axis=1).min())


def too_near(delta: Floats, orthogonalization: Floats, images: Floats, squared: float) -> NDArray[np.bool_]:
    """(…, 3) differences in fractions to (…): is any image of the difference shorter?"""
    nearest: Floats = (delta - np.rint(delta)) @ orthogonalization.T
    if len(images) > 1:
        nearest = nearest[..., None, :] + images
    near = np.einsum("...i,...i->...", nearest, nearest) < squared
    too_near: NDArray[np.bool_] = near.any(-1) if len(images) > 1 else near
    return too_near


def nearest_images(delta: Floats, orthogonalization: Floats, images: Floats) -> Floats:
    """(…, 3) differences in fractions to (…): length in Å of the shortest image, among `images` and the nearest."""
    nearest: Floats = (delta - np.rint(delta)) @ orthogonalization.T
    if len(images) > 1:
        nearest = nearest[..., None, :] + images
    squared = np.einsum("...i,...i->...", nearest, nearest)
    length: Floats = np.sqrt(squared.min(-1) if len(images) > 1 else squared)
    return length
