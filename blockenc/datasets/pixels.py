"""Pixels as arrays, uint8 [H, W, C] with C = 1, 3 or 4: fit to blocks, digests, PNG files of them."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib

import numpy as np

from blockenc.errors import BlockencError
from blockenc.images import fitted_side

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
CHANNELS = (1, 3, 4)
STORED_BLOCK = 0xFFFF  # bytes; what deflate admits in one
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # in PNG files, by channels

Size = tuple[int, int]  # width, height
Source = str | os.PathLike[str] | bytes  # a picture file, or its contents


class ImageFileError(BlockencError, ValueError):
    """An image or data file cannot be read, or is not what the manifest says it is."""


class RefusedError(ImageFileError):
    """A sound file that is not encrypted as it is: the user has to decide. It is never skipped as damaged."""


def stored_png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels [H, W, C], not filtered and not compressed (ISO/IEC 15948; RFC 1950, 1951).

    Encrypted pixels are close to noise: Pillow's encoder, trying five filters a row, takes 25 times as long
    and makes the file 2 % smaller. Readers are faster for it, too. Of large buffers there are but two.
    """
    height, width, channels = pixels.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 0  # the filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.ravel().data
    data: list[bytes | memoryview] = [b"IDAT\x78\x01"]
    adler = 1
    for start in range(0, len(raw), STORED_BLOCK):
        block = raw[start : start + STORED_BLOCK]
        last = start + STORED_BLOCK >= len(raw)
        data += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
        adler = zlib.adler32(block, adler)
    data.append(struct.pack(">I", adler))
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    parts: list[bytes | memoryview] = [b"\x89PNG\r\n\x1a\n"]
    for chunk in ([header], data, [b"IEND"]):
        crc = 0
        for part in chunk:
            crc = zlib.crc32(part, crc)
        parts += [struct.pack(">I", sum(map(len, chunk)) - 4), *chunk, struct.pack(">I", crc)]
    return b"".join(parts)


def fitted_size(size: Size, block_size: int, fit: str) -> Size:
    """The size of an encrypted image: multiples of the block size, the next larger ones for "pad"."""
    width, height = (fitted_side(n, block_size, "pad" if fit == "pad" else "crop") for n in size)
    return width, height


def misfit(size: Size, block_size: int, fit: str) -> bool:
    """Whether an image of this size cannot be encrypted."""
    fitted = fitted_size(size, block_size, fit)
    return 0 in fitted or (fit == "error" and fitted != size)


def misfit_error(name: object, size: Size, block_size: int, fit: str, more: int = 0) -> ValueError:
    others = f" (and {more} more images)" if more else ""
    hint = "too small for" if fit == "crop" else "not a multiple of"
    advice = "use fit pad" if fit == "crop" else "use fit crop or pad"
    return ValueError(
        f"{name}: {size[0]} x {size[1]} pixels is {hint} the block size {block_size}{others}; {advice}"
    )


def fitted(images: np.ndarray, block_size: int, fit: str) -> np.ndarray:
    """Images [N, H, W, C] cropped or padded (by repeating the edge) at the right and bottom."""
    height, width = images.shape[1:3]
    right, bottom = fitted_size((width, height), block_size, fit)
    if fit == "pad":
        return np.pad(images, ((0, 0), (0, bottom - height), (0, right - width), (0, 0)), mode="edge")
    return images[:, :bottom, :right]


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
