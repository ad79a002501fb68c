"""A whole split of crystals on the device, and batches of all that need the same grid at a resolution.

On disk crystals lie by the shape of their grid at the resolution of the data set: hundreds of shapes, most of few
crystals. At the resolution of a problem, and with axes in the order of their lengths, there are dozens, and batches are
as large as a GPU wants them.

Legend: B crystals, D H W the sides of the grid, K = W // 2 + 1 the half of the last axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.diffraction.grid import Shape
from phaseray.phasing.problem import LEAST_SIDE
from phaseray.training.protocols import TrainingData

__all__ = ["MULTIPLE", "ResidentCrystals", "indices", "reciprocal_metric"]

MULTIPLE = 4  # of the sides, for the network
_READ = 4_000_000  # grid points that are read at once
_MOST = 1 << 20  # points a side, to tell shapes by one number
_RARE = 0.25  # of a full batch: groups of fewer crystals come up less often than their crystals would


class ResidentCrystals:
    """Structure factors of one split, half precision, 2 bytes a grid point.

    `favour` has how many times as often as others crystals come up whose ids begin so; `absent` those of its
    beginnings that no crystal has. ValueError where the split is empty.
    """

    def __init__(
        self,
        data: TrainingData,
        split: str,
        device: torch.device | str,
        favour: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        kept, cells, shapes, favoured = [], [], [], []
        names = list(favour)
        for batch in data.batches(split, 1, seed=0, epoch=0, shuffle=False, voxels=_READ):
            density = torch.tensor(batch.density, dtype=torch.float32, device=device)
            F = torch.fft.rfftn(density, dim=(1, 2, 3))
            F[:, 0, 0, 0] = 0
            F = F / F.abs().square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
            kept.append(torch.view_as_real(F).half().reshape(-1, 2))
            cells.append(batch.cell)
            shapes += [batch.shape] * len(batch.cell)
            favoured += [next((k for k, name in enumerate(names) if i.startswith(name)), -1) for i in batch.ids]
        if not shapes:
            raise ValueError(f"the data set holds no crystals to keep in its split {split!r}")
        self.coefficients = torch.cat(kept)
        cell_N6 = np.concatenate(cells)
        self.edges: NDArray[np.float64] = cell_N6[:, :3]
        self.shapes: NDArray[np.int64] = np.array(shapes)
        self.weights = np.array([*favour.values(), 1.0])[favoured]
        self.absent = [name for k, name in enumerate(names) if k not in favoured]
        sizes = self.shapes[:, 0] * self.shapes[:, 1] * (self.shapes[:, 2] // 2 + 1)
        self.first = torch.tensor(np.concatenate([[0], np.cumsum(sizes)[:-1]]), device=device)
        self.metric = reciprocal_metric(torch.tensor(cell_N6, device=device))
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.edges)

    def draw(
        self, d_min: float, points_per_d_min: float, voxels: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Shape]:
        """Coefficients (B, D, H, K), reciprocal metrics (B, 3, 3) in Å⁻² and the shape of a batch.

        Crystals come up as often as they are favoured in the long run, but those whose grid hardly any other needs
        less often.

        Parameters
        ----------
        d_min : Å
        points_per_d_min : of the grid
        voxels : grid points of the batch at most; it has one crystal at least
        """
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        sides = MULTIPLE * np.ceil(self.edges * points_per_d_min / d_min / MULTIPLE - 1e-9).astype(np.int64)
        sides = np.minimum(np.maximum(sides, LEAST_SIDE), self.shapes)
        # equal sides in either order
        order = np.argsort(sides + rng.random(sides.shape), axis=1)
        ordered = np.take_along_axis(sides, order, 1)
        codes = (ordered[:, 0] * _MOST + ordered[:, 1]) * _MOST + ordered[:, 2]
        _, one, group_of = np.unique(codes, return_index=True, return_inverse=True)
        groups = ordered[one]
        room = np.maximum(1, voxels // groups.prod(1))
        batches = np.bincount(group_of, self.weights) / room
        weight = np.where(batches >= 1, batches, np.minimum(1, batches / _RARE))
        group = rng.choice(len(groups), p=weight / weight.sum())
        members = np.flatnonzero(group_of == group)
        size = _rounded(int(min(room[group], len(members))))
        weights = self.weights[members]
        members = rng.choice(members, size, replace=False, p=weights / weights.sum())
        turn = rng.permutation(3)
        shape: Shape = tuple(int(n) for n in groups[group][turn])  # type: ignore[assignment]
        return *self._taken(members, order[members][:, turn], shape), shape

    def _taken(self, members: NDArray[np.int64], axes_B3: NDArray[np.int64], shape: Shape) -> tuple[Tensor, Tensor]:
        """Of some crystals, the axis i of a grid being axis `axes_B3[:, i]` of the crystal's own."""
        which = torch.tensor(members, device=self.device)
        axes = torch.tensor(axes_B3, device=self.device)
        whole = torch.tensor(self.shapes[members], device=self.device)
        hkl = indices(shape, self.device).long()
        own = torch.zeros((len(which), *hkl.shape), dtype=torch.long, device=self.device)
        own.scatter_(-1, axes[:, None, None, None, :].expand_as(own), hkl.expand_as(own))
        # only l ≥ 0 is kept; F(-h) is the conjugate of F(h)
        minus = own[..., 2] < 0
        own = torch.where(minus[..., None], -own, own)
        n = whole[:, None, None, None, :]
        h, k, l = (own[..., 0] % n[..., 0], own[..., 1] % n[..., 1], own[..., 2])
        place = self.first[which][:, None, None, None] + (h * n[..., 1] + k) * (n[..., 2] // 2 + 1) + l
        F = torch.view_as_complex(self.coefficients[place].float())
        turned = self.metric[which].gather(1, axes[:, :, None].expand(-1, 3, 3))
        return torch.where(minus, F.conj(), F), turned.gather(2, axes[:, None, :].expand(-1, 3, 3))


def _rounded(size: int) -> int:
    """Down to 1, 2, 3, 4, 6, 8, 12, 16, 24, …: what a GPU plans for one size and shape serves again."""
    power = 1 << (size.bit_length() - 1)
    return power + power // 2 if size >= power + power // 2 else power


def indices(shape: Shape, device: torch.device | str) -> Tensor:
    """(D, H, K, 3) float32 Miller indices of a half grid."""
    h, k = (torch.fft.fftfreq(n, 1 / n, device=device) for n in shape[:2])
    l = torch.arange(shape[2] // 2 + 1, device=device, dtype=h.dtype)
    return torch.stack(torch.meshgrid(h, k, l, indexing="ij"), -1)


def reciprocal_metric(cell_B6: Tensor) -> Tensor:
    """(B, 6) cells in Å and degrees to (B, 3, 3) G* in Å⁻²: 1/d² = hᵀ G* h."""
    edges = cell_B6[:, :3].double()
    cosines = torch.cos(torch.deg2rad(cell_B6[:, 3:].double()))
    ones = torch.ones_like(cosines[:, 0])
    ca, cb, cg = cosines.unbind(1)
    angles = torch.stack([ones, cg, cb, cg, ones, ca, cb, ca, ones], 1).view(-1, 3, 3)
    metric: Tensor = torch.linalg.inv(angles * edges[:, :, None] * edges[:, None, :])
    return metric
