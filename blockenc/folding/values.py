"""What encryption does to the values that a stem sees, as something that a linear map can absorb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from blockenc.plan import BYTE_VALUES, Plan


class Normalisation(NamedTuple):
    """How pixels from 0 to 1 become what a stem sees: (u - mean)/std. float64 [C] each."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Normalisation:
        if mean is None or std is None:
            return cls(np.zeros(channels), np.ones(channels))
        found = cls(np.asarray(mean, np.float64), np.asarray(std, np.float64))
        if found.mean.shape != (channels,) or found.std.shape != (channels,) or not found.std.all():
            raise ValueError(f"mean, std: expected {channels} numbers each, std not 0, got {mean!r}, {std!r}")
        return found

    def apply(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        """Integers [..., C, H, W] of a scale (255 for bytes), normalised, in float64."""
        mean, std = (torch.from_numpy(numbers)[:, None, None] for numbers in self)
        return (x.double() / scale - mean) / std


class Values(NamedTuple):
    """How to get the plain values of a block out of an encrypted one: its *features*.

    Feature k of position p is a function of the encrypted value at p alone, and belongs to the plain value at
    position source[v, p, k]; what belongs to a plain value adds up to that value, normalised. There is one
    feature a position, or two (a low and a high nibble). V variants of the transform, L positions.

    source: int64 [V, L, features].
    scale, shift: float64 [V, L], where a feature is scale * encrypted value + shift; else None.
    rows, kind: float64 [kinds, values, features] and int64 [V, L], where features are looked up:
        rows[kind[v, p], encrypted integer at p]; else None.
    """

    source: np.ndarray
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    rows: np.ndarray | None = None
    kind: np.ndarray | None = None

    @classmethod
    def of(cls, plan: Plan, norm: Normalisation) -> Values:
        """Those of a plan, for stems that see plain images normalised like that."""
        source = plan.source.astype(np.int64)
        if plan.nibbles:
            return cls._of_nibbles(plan, norm, source)
        channel = source % plan.channels
        flipped = plan.flips % 2 == 1
        if plan.quantises:
            found, kind = _distinct(flipped, plan.table_of, channel)
            becomes = plan.substitution(found[0] == 1, found[1])
            plain = np.arange(plan.in_values) / plan.in_scale
            rows = np.zeros((len(becomes), plan.out_values))
            c = found[2][:, None]
            np.put_along_axis(rows, becomes, (plain - norm.mean[c]) / norm.std[c], axis=1)
            return cls(source[..., None], rows=rows[..., None], kind=kind)
        own = np.arange(plan.length) % plan.channels
        sign = np.where(flipped, -1.0, 1.0)
        # With u a value in [0, 1]: a position of an encrypted block holds u or 1 - u of its source, and the
        # model sees (u - mean)/std of either.
        scale = sign * norm.std[own] / norm.std[channel]
        shift = (sign * norm.mean[own] + flipped - norm.mean[channel]) / norm.std[channel]
        return cls(source[..., None], scale=scale, shift=shift)

    @classmethod
    def _of_nibbles(cls, plan: Plan, norm: Normalisation, cells: np.ndarray) -> Values:
        length = plan.length
        source, flipped = cells % length, plan.flips % 2 == 1
        low, high = np.arange(length), np.arange(length, 2 * length)
        is_high, channel = cells >= length, source % plan.channels
        parts = (part[:, half] for part in (flipped, is_high, channel) for half in (low, high))
        found, kind = _distinct(plan.table_of, *parts)
        becomes = plan.substitution(np.zeros(len(found[0]), bool), found[0])
        byte = np.arange(BYTE_VALUES)
        rows = np.zeros((len(becomes), plan.out_values, 2))
        for k, (flip, upper, c) in enumerate(zip(found[1:3], found[3:5], found[5:7])):
            nibble = np.broadcast_to(byte // 16 if k else byte % 16, becomes.shape)
            nibble = np.where(flip[:, None] == 1, 15 - nibble, nibble)
            mean, std, is_upper = norm.mean[c][:, None], norm.std[c][:, None], upper[:, None] == 1
            # Of 16 * high + low, the mean is taken off the high half.
            value = np.where(is_upper, (16 * nibble / 255 - mean) / std, nibble / 255 / std)
            np.put_along_axis(rows[:, :, k], becomes, value, axis=1)
        return cls(np.stack([source[:, low], source[:, high]], axis=2), rows=rows, kind=kind)

    @property
    def features(self) -> int:
        return int(self.source.shape[2])

    def fold(self, kernel: torch.Tensor, block_size: int, v: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """A kernel [D, C, A*M, B*M] for plain blocks as one [D, C * features, A*M, B*M] for the features of
        encrypted ones, or where these are linear for encrypted blocks; and what it gets beside that, [D]."""
        blocks = to_blocks(kernel, block_size)
        source = torch.from_numpy(self.source[v]).to(kernel.device)
        moved = blocks[..., source]
        offset = moved.new_zeros(len(kernel))
        if self.scale is not None and self.shift is not None:
            scale, shift = (torch.from_numpy(of[v]).to(kernel.device) for of in (self.scale, self.shift))
            if self.shift.any():
                offset = (moved[..., 0] * shift).sum((1, 2, 3))
            moved = moved * scale[:, None]
        return from_blocks(moved.flatten(3), block_size), offset

    def unfold(self, kernel: torch.Tensor, block_size: int, v: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `fold`: the plain kernel, and the offset that `fold` gave for it."""
        blocks = to_blocks(kernel, block_size)
        blocks = blocks.view(*blocks.shape[:3], -1, self.features)
        if self.scale is not None:
            blocks = blocks / torch.from_numpy(self.scale[v]).to(kernel.device)[:, None]
        source = torch.from_numpy(self.source[v]).to(kernel.device)
        plain = torch.zeros_like(blocks[..., 0])
        plain.index_add_(3, source.flatten(), blocks.flatten(3))
        plain = from_blocks(plain / self.features, block_size)
        return plain, self.fold(plain, block_size, v)[1]

    def zero(self, v: int = 0) -> np.ndarray:
        """float64 [L]: the encrypted values whose features are 0, as a stem's padding is. Of linear ones."""
        assert self.scale is not None
        assert self.shift is not None
        zero: np.ndarray = -self.shift[v] / self.scale[v]
        return zero


def to_blocks(kernel: torch.Tensor, block_size: int) -> torch.Tensor:
    """A kernel [D, C, A*M, B*M] as [D, A, B, M*M*C]."""
    d, channels, height, width = kernel.shape
    shape = (d, channels, height // block_size, block_size, width // block_size, block_size)
    return kernel.reshape(shape).permute(0, 2, 4, 3, 5, 1).flatten(3)


def from_blocks(blocks: torch.Tensor, block_size: int) -> torch.Tensor:
    """The inverse of `to_blocks`."""
    d, a, b, _ = blocks.shape
    whole = blocks.reshape(d, a, b, block_size, block_size, -1).permute(0, 5, 1, 3, 2, 4)
    return whole.reshape(d, -1, a * block_size, b * block_size)


def as_picture(of_position: np.ndarray, block_size: int) -> torch.Tensor:
    """What belongs to the positions of a block, [M*M*C], as [C, M, M]."""
    picture = of_position.reshape(block_size, block_size, -1).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(picture))


def _distinct(*parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct columns of [V, L] arrays, int64 [parts, kinds], and which one each has, int64 [V, L]."""
    stacked = np.stack([part.astype(np.int64) for part in parts])
    found, kind = np.unique(stacked.reshape(len(parts), -1), axis=1, return_inverse=True)
    return found, kind.reshape(parts[0].shape)
