"""What a scheme and a key compile to, whatever the steps: one gather and one value substitution.

    out[n, g, p] = T[t[v, p]]( in[n, moves[k, g], source[v, p]] )     v = variant[k, g],  k = key_of_image[n]

Block g of the result is made of block moves[k, g] of the image, by variant v of the block transform. Version
1 treats every block alike: V = 1 variant, K = 1 key, and no map of blocks.

Value domains. An image is made of *integers* 0..values-1 (values = 256, or 1000 in the decimal profile), or
of floats in [0, 1]. A plan with an ffx step or with nibbles *quantises*: floats become integers. Floats are
treated in one of two ways (docs/scheme.md, "Value types"):

- `nearest`, the byte profile, and decryption where there is an ffx step: floats become the nearest integers
  of clamp(v) * in_scale before anything else is done; where nothing quantises, the negative of a byte k/255
  is the byte (255 - k)/255.
- as published, the decimal profile: the negative is 1 - v, and after that integers are made, by truncation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blockenc.plan.packing import (
    BYTE_VALUES,
    DECIMAL_IN,
    DECIMAL_OUT,
    DECIMAL_VALUES,
    NEAREST,
    NIBBLES,
    NORMALISES,
    QUANTISES,
    Header,
    pack,
    unpack,
)


class _computed_once:  # noqa: N801 - used like functools.cached_property
    """A property that is kept when first read. Unlike functools.cached_property before Python 3.12 it has no
    lock, which a fork could copy while another thread holds it: the child would wait for ever."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A compiled transform of images. Immutable; holds secrets' consequences, so never printed.

    Sizes: L = block_size * block_size * channels; `cells` = L, or 2L with nibbles (cell q < L is the low half
    of value q, cell L + q its high half); V variants, T tables, K keys, G blocks of an image.

    source: int32 [V, cells], the cell that each cell of the result reads.
    flips: uint8 [V, cells], how often the value read is replaced by its negative: 255 - v of integers, 1 - v
        of floats (but see `nearest` above), 15 - v of nibbles. 1 - (1 - v) is not v for all floats, so the
        number counts, not its parity.
    table_of: uint16 [V, L], 0 for no substitution, else 1 + the row of `tables`.
    tables: uint16 [T, in_values].
    grid: rows and columns of blocks of an image; None: images of any size, in which no block moves and
        variant k is used for all blocks of an image of key k.
    moves, variant: int32 [K, G], where there is a grid.
    key_of_image: int32 [N], where each image of a batch has a key of its own; None: all have key 0.
    """

    block_size: int
    channels: int
    source: np.ndarray
    flips: np.ndarray
    table_of: np.ndarray
    tables: np.ndarray
    grid: tuple[int, int] | None = None
    moves: np.ndarray | None = None
    variant: np.ndarray | None = None
    key_of_image: np.ndarray | None = None
    in_values: int = BYTE_VALUES
    out_values: int = BYTE_VALUES
    quantises: bool = False
    nearest: bool = False
    in_scale: int = 255
    out_scale: int = 255
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    most_flips: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # Now: a trace could not take a number out of an array.
        object.__setattr__(self, "most_flips", int(self.flips.max(initial=0)))

    @property
    def length(self) -> int:
        return self.block_size * self.block_size * self.channels

    @property
    def variants(self) -> int:
        return len(self.source)

    @property
    def keys(self) -> int:
        return self.variants if self.moves is None else len(self.moves)

    @property
    def nibbles(self) -> bool:
        return bool(self.source.shape[1] != self.length)

    @property
    def is_uniform(self) -> bool:
        """Whether every block of every image is treated alike, as version 1 does."""
        return self.grid is None and self.variants == 1

    @_computed_once
    def flags(self) -> int:
        return (
            QUANTISES * self.quantises
            | NEAREST * self.nearest
            | DECIMAL_IN * (self.in_values == DECIMAL_VALUES)
            | DECIMAL_OUT * (self.out_values == DECIMAL_VALUES)
            | NORMALISES * (self.mean is not None)
            | NIBBLES * self.nibbles
        )

    @_computed_once
    def output(self) -> np.ndarray:
        """float32 [C, out_values]: the output stage of every integer, each operation rounded to float32.

        (v/scale - mean[c])/std[c], bit for bit what torchvision's ToTensor and Normalize give.
        """
        values = np.arange(self.out_values, dtype=np.float32) / np.float32(self.out_scale)
        mean, std = self.normalisation()
        table: np.ndarray = (values[None, :] - mean[:, None]) / std[:, None]
        return table

    def normalisation(self) -> np.ndarray:
        """float32 [2, C]: mean and std, 0 and 1 where there is none."""
        mean = self.mean or (0.0,) * self.channels
        std = self.std or (1.0,) * self.channels
        return np.array([mean, std], np.float32)

    @_computed_once
    def packed(self) -> np.ndarray:
        """The plan as one uint8 vector, as it enters a graph or a GPU (blockenc.plan.packing)."""
        floats = np.concatenate([np.array([self.in_scale], np.float32), self.normalisation().ravel()])
        arrays = [floats, self.source, self.flips, self.table_of, self.tables, self.output]
        images = 0 if self.key_of_image is None else len(self.key_of_image)
        rows, columns = self.grid or (0, 0)
        header = Header(
            size=0,
            block_size=self.block_size,
            channels=self.channels,
            flags=self.flags,
            tables=len(self.tables),
            variants=self.variants,
            keys=self.keys,
            rows=rows,
            columns=columns,
            images=images,
        )
        return pack(header, [*arrays, self.moves, self.variant, self.key_of_image])

    @classmethod
    def unpack(cls, packed: np.ndarray, expected: Header | None = None) -> Plan:
        """The plan in `packed`. The output stage is kept as mean and std.

        expected: its header, where it is known already. Raises ValueError where it is another one, and
        unless every number in the plan lies inside what it indexes.
        """
        header, arrays = unpack(packed, expected)
        floats, source, flips, table_of, tables, output, moves, variant, key_of_image = arrays
        flags, channels = header.flags, header.channels
        plan = cls(
            block_size=header.block_size,
            channels=channels,
            source=source,
            flips=flips,
            table_of=table_of,
            tables=tables,
            grid=(header.rows, header.columns) if header.rows else None,
            moves=moves if header.rows else None,
            variant=variant if header.rows else None,
            key_of_image=key_of_image if header.images else None,
            in_values=header.in_values,
            out_values=header.out_values,
            quantises=bool(flags & QUANTISES),
            nearest=bool(flags & NEAREST),
            in_scale=int(floats[0]),
            mean=tuple(floats[1 : 1 + channels].tolist()) if flags & NORMALISES else None,
            std=tuple(floats[1 + channels :].tolist()) if flags & NORMALISES else None,
        )
        plan.__dict__["output"] = output  # as packed: out_scale need not be known
        return plan

    def maps(self, blocks: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """moves [K, G], variant [K, G] and key_of_image [N], where they are not kept because they say
        nothing."""
        key_of_image = np.zeros(images, np.int32) if self.key_of_image is None else self.key_of_image
        if self.moves is not None and self.variant is not None:
            return self.moves, self.variant, key_of_image
        shape = self.keys, blocks
        still = np.broadcast_to(np.arange(blocks, dtype=np.int32), shape)
        variant = np.broadcast_to(np.arange(self.keys, dtype=np.int32)[:, None], shape)
        return np.ascontiguousarray(still), np.ascontiguousarray(variant), key_of_image

    def substitutions(self) -> np.ndarray:
        """int64 [L, in_values]: what every integer read at source[0, p] becomes at position p.

        Only of plans that treat every block alike, and move no nibbles. Raises ValueError for others.
        """
        if not self.is_uniform or self.nibbles:
            raise ValueError("plan: expected one that treats every block alike and moves whole values")
        return self.substitution(self.flips[0] % 2, self.table_of[0].astype(np.int64))

    def substitution(self, flip: np.ndarray, table: np.ndarray) -> np.ndarray:
        """int64 [n, in_values]: what becomes of every integer read, for n parities of flips and numbers of
        tables."""
        values = np.arange(self.in_values)
        read = np.where(flip[:, None], np.maximum(BYTE_VALUES - 1 - values, 0), values)
        plain = np.minimum(read, self.out_values - 1)
        if not len(self.tables):
            return plain
        looked_up = self.tables[np.maximum(table - 1, 0)[:, None], read]
        return np.where(table[:, None], looked_up, plain)

    def with_output(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Plan:
        """This plan with another output stage."""
        return dataclasses.replace(
            self,
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
        )

    def __repr__(self) -> str:
        sizes = f"block_size={self.block_size}, channels={self.channels}, variants={self.variants}"
        return f"Plan({sizes}, keys={self.keys}, grid={self.grid}, flags={self.flags})"
