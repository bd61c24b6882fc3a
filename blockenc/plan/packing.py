"""A plan as one vector of bytes that describes itself, and back.

A header of HEADER_BYTES, then the arrays, each padded to SECTION bytes; all numbers are little-endian.
csrc/plan.h reads the same layout. A packed plan may come from anyone (an exported program, a pickle):
everything in it is checked before it is used.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from blockenc.limits import MAX_BLOCK_LENGTH

BYTE_VALUES = 256
DECIMAL_VALUES = 1000

# Bits of `Plan.flags` (csrc/plan.h has the same list).
QUANTISES = 1  # float input becomes integers
NEAREST = 2  # floats k/255 are the bytes k; without it they are treated as published
DECIMAL_IN = 4  # integers in are below 1000, not 256
DECIMAL_OUT = 8  # integers out are below 1000, not 256
NORMALISES = 16  # float output is (v - mean) / std
NIBBLES = 32  # the halves of bytes are moved and flipped on their own
ALL_FLAGS = 63

MAGIC, LAYOUT = b"BLKENCPL", 2
HEADER_BYTES = 128
SECTION = 64  # a cache line, so that every section may be read with aligned vectors
# magic, layout, header bytes, all bytes; block size, channels, flags, T, V, K, rows and columns of the grid,
# images, 0; digest.
_HEADER = struct.Struct("<8sIIq10i32s32x")
_DIGEST = slice(64, 96)

MAX_TABLES = 2**16 - 1  # table_of has 16 bits
MAX_BLOCKS = 1 << 24  # of an image, and the images of a batch
MAX_ENTRIES = 1 << 28  # of an array


class Header(NamedTuple):
    """The sizes of a packed plan, checked against each other."""

    size: int  # bytes, of all
    block_size: int
    channels: int
    flags: int
    tables: int
    variants: int
    keys: int
    rows: int  # of the grid of blocks; 0: images of any size
    columns: int
    images: int  # of the batch; 0: any number

    @property
    def in_values(self) -> int:
        return DECIMAL_VALUES if self.flags & DECIMAL_IN else BYTE_VALUES

    @property
    def out_values(self) -> int:
        return DECIMAL_VALUES if self.flags & DECIMAL_OUT else BYTE_VALUES

    @property
    def length(self) -> int:
        return self.block_size * self.block_size * self.channels

    @property
    def cells(self) -> int:
        return self.length * (2 if self.flags & NIBBLES else 1)

    def packed(self) -> bytes:
        """The header as it begins a packed plan, without a digest."""
        return _HEADER.pack(MAGIC, LAYOUT, HEADER_BYTES, *self, 0, bytes(32))

    def sections(self) -> list[tuple[Any, tuple[int, ...]]]:
        """dtype and shape of each array: in_scale with mean and std, source, flips, table_of, tables, output,
        moves, variant, key_of_image."""
        grid = (self.keys, self.rows * self.columns) if self.rows else (0,)
        return [
            (np.float32, (1 + 2 * self.channels,)),
            (np.int32, (self.variants, self.cells)),
            (np.uint8, (self.variants, self.cells)),
            (np.uint16, (self.variants, self.length)),
            (np.uint16, (self.tables, self.in_values)),
            (np.float32, (self.channels, self.out_values)),
            (np.int32, grid),
            (np.int32, grid),
            (np.int32, (self.images,)),
        ]


def pack(header: Header, arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """uint8 [size]: the header, whose size is filled in, and the arrays of `Header.sections` (None: none)."""
    body = []
    for array, (dtype, shape) in zip(arrays, header.sections()):
        whole = np.ascontiguousarray([] if array is None else array, dtype).reshape(shape)
        data = whole.view(np.uint8).ravel()
        body += [data, np.zeros(-data.size % SECTION, np.uint8)]
    size = HEADER_BYTES + sum(part.size for part in body)
    start = np.frombuffer(header._replace(size=size).packed(), np.uint8)
    packed = np.concatenate([start, *body])
    packed[_DIGEST] = np.frombuffer(hashlib.sha256(packed.tobytes()).digest(), np.uint8)
    return packed


@functools.lru_cache(maxsize=256)  # every call asks
def read_header(start: bytes) -> Header:
    """The header in the first HEADER_BYTES of a packed plan. Raises ValueError for what is no plan's."""
    if len(start) != HEADER_BYTES or start[:8] != MAGIC:
        raise ValueError("plan: expected a packed plan (Plan.packed), got other bytes")
    _, layout, header_bytes, size, *counts, zero, _digest = _HEADER.unpack(start)
    if layout != LAYOUT or header_bytes != HEADER_BYTES or zero:
        raise ValueError(f"plan: this release reads layout {LAYOUT} of packed plans, got {layout}")
    header = Header(size, *counts)
    _, m, c, flags, tables, variants, keys, rows, columns, images = header
    if not (m >= 1 and c >= 1 and m * m * c <= MAX_BLOCK_LENGTH):
        raise ValueError(f"plan: expected a block of 1 to {MAX_BLOCK_LENGTH} values, got {m} x {m} x {c}")
    if not 0 <= flags <= ALL_FLAGS or (flags & NIBBLES and (not flags & QUANTISES or flags & DECIMAL_IN)):
        raise ValueError(f"plan: no plan has the flags {flags}")
    if not 0 <= tables <= MAX_TABLES:
        raise ValueError(f"plan: expected 0 to {MAX_TABLES} tables, got {tables}")
    entries = variants >= 1 and keys >= 1 and variants * header.cells <= MAX_ENTRIES
    blocks = (rows >= 1 and columns >= 1) or rows == columns == 0
    if not (entries and blocks and rows * columns <= MAX_BLOCKS and keys * rows * columns <= MAX_ENTRIES):
        raise ValueError(
            f"plan: no plan has {variants} variants and {keys} keys for a grid of {rows} x {columns} blocks"
        )
    if (rows == 0 and variants != keys) or not 0 <= images <= MAX_BLOCKS or (images == 0 and keys > 1):
        raise ValueError(f"plan: no plan has {variants} variants and {keys} keys for {images} images")
    expected = HEADER_BYTES + sum(
        padded(math.prod(shape) * np.dtype(dtype).itemsize) for dtype, shape in header.sections()
    )
    if size != expected:
        raise ValueError(f"plan: expected {expected} bytes for what its header says, got {size}")
    return header


def padded(size: int) -> int:
    return size + -size % SECTION


def unpack(packed: np.ndarray, expected: Header | None = None) -> tuple[Header, list[np.ndarray]]:
    """The header of a packed plan, and its arrays as `Header.sections` has them.

    expected: the header that images were compared with before, if they were. Raises ValueError where it is
    another one, and unless every number in the plan lies inside what it indexes.
    """
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size < HEADER_BYTES:
        raise ValueError(f"plan: expected a vector of bytes, got {packed.dtype} {packed.shape}")
    packed = packed.copy()  # what is checked is what is used, whoever may write to the plan meanwhile
    header = read_header(packed[:HEADER_BYTES].tobytes())
    if expected not in (None, header):
        raise ValueError("plan: it was written to while it was read")
    if packed.size != header.size:
        raise ValueError(f"plan: expected {header.size} bytes, got {packed.size}")
    arrays, start = [], HEADER_BYTES
    for dtype, shape in header.sections():
        count = math.prod(shape) * np.dtype(dtype).itemsize
        arrays.append(packed[start : start + count].view(dtype).reshape(shape))
        start += padded(count)
    floats, source, _, table_of, tables, _, moves, variant, key_of_image = arrays
    if not 0 <= floats[0] <= header.in_values - 1:  # NaN fails
        raise ValueError("plan: the scale of its float input is out of range")
    blocks = header.rows * header.columns
    for index, below in (
        (source, header.cells),
        (table_of, header.tables + 1),
        (moves, blocks),
        (variant, header.variants),
        (key_of_image, header.keys),
    ):
        if index.size and not (index.min() >= 0 and index.max() < below):
            raise ValueError("plan: an index in it is out of range")
    if tables.size and tables.max() >= header.out_values:
        raise ValueError("plan: a table value in it is out of range")
    return header, arrays
