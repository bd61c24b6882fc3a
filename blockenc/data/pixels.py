"""Image files to pixels and back: what Pillow reads, as uint8 [H, W, C] with C = 1, 3 or 4, and PNG."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from blockenc.errors import BlockencError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FITS = ("error", "crop", "pad")
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
STORED_BLOCK = 0xFFFF  # bytes; what deflate admits in one
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # in PNG files, by channels

Size = tuple[int, int]  # width, height
Source = str | os.PathLike[str] | bytes  # an image file, or its contents


class ImageFileError(BlockencError, ValueError):
    """An image or data file cannot be read, or is not what the manifest says it is."""


def header(source: Source, name: object) -> tuple[Size, str]:
    """The size of an image file and the Pillow mode of its pixels here. Raises ImageFileError naming it.

    EXIF orientation, which would cost decoding, is not needed: it only swaps width and height.
    """
    with reading(name), Image.open(_opened(source)) as image:
        return image.size, _target_mode(image, name)


def image_header(path: Path) -> tuple[Size, str]:
    """The size and Pillow mode of an image file as it is. Raises ImageFileError."""
    with reading(path), Image.open(path) as image:
        return image.size, image.mode


def read(source: Source, name: object) -> np.ndarray:
    """The pixels [H, W, C] of an image, upright; of 16-bit grey the high byte. Raises ImageFileError."""
    with reading(name), Image.open(_opened(source)) as image:
        # A photo with an embedded preview is an MPO of two frames: the first is the photo.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ImageFileError(f"{name}: several frames; only still images are encrypted")
        mode, wide = _target_mode(image, name), _is_16_bit(image)
        upright = ImageOps.exif_transpose(image)
        if wide:
            return _channels_last((np.asarray(upright) >> 8).astype(np.uint8))
        return _channels_last(np.array(upright.convert(mode)))


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels [H, W, C]."""
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


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
    extra = block_size - 1 if fit == "pad" else 0
    width, height = ((n + extra) // block_size * block_size for n in size)
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


@contextlib.contextmanager
def reading(name: object) -> Iterator[None]:
    """Name the file in every error of a decoder; on damaged data Pillow raises much besides OSError."""
    try:
        yield
    except (BlockencError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageFileError(f"{name}: not an image, or a damaged one") from None
    except Exception as error:
        raise ImageFileError(f"{name}: cannot be read as an image ({error})") from None


def _opened(source: Source) -> str | os.PathLike[str] | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _target_mode(image: Image.Image, name: object) -> str:
    """The mode of `CHANNELS` that an image is converted to."""
    mode = image.mode
    if mode in CHANNELS:
        return mode
    if mode == "1" or _is_16_bit(image):
        return "L"
    if mode in ("I", "F"):
        raise ImageFileError(f"{name}: pixels of mode {mode} have no 8-bit form; convert them first")
    if mode in ("LA", "PA") or (mode == "P" and "transparency" in image.info):
        return "RGBA"
    return "RGB"


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[:, :, None]
