"""Picture files: what Pillow reads of them, the parts that are encrypted, and the file that comes back.

A picture is encrypted as one array, by default the three channels that `Image.open(path).convert("RGB")`
gives a loader. What the file holds beyond that is `beside` it and encrypted apart, with one channel: its
alpha, or the numbers of its palette. It travels as the alpha band of the encrypted PNG, which
convert("RGB") drops.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from blockenc.datasets.pixels import ImageFileError, RefusedError, Size, Source
from blockenc.datasets.reading import MAX_BYTES, Edges, Reading
from blockenc.errors import BlockencError

# All that is opened: Pillow knows others, of which one (EPS) starts a program. A JPEG may turn out an MPO.
PLUGINS = {
    "PNG": PngImagePlugin,
    "JPEG": JpegImagePlugin,
    "BMP": BmpImagePlugin,
    "WEBP": WebPImagePlugin,
    "TIFF": TiffImagePlugin,
    "PPM": PpmImagePlugin,
}
FORMATS = tuple(PLUGINS)
# What is read without loss. Others are converted if the user says so.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
BESIDE = ("LA", "RGBA", "P")  # those that hold more than convert("RGB") gives
ORIENTATION = 0x0112
PALETTE = (16, 16)  # height and width of a palette of 256 colours as a picture
_METADATA = {"exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "photoshop", "comment", "iptc"}
_TIFF_METADATA = {270, 305, 315, 700, 33432, 33723, 34377, 34665, 34675, 34853}

Transform = Callable[[np.ndarray], np.ndarray]  # of [H, W, C], by the cipher of C channels


class Encoded(NamedTuple):
    """A picture file, or its contents, and what errors call it."""

    source: Source
    name: str


class Stored(NamedTuple):
    """A picture as its file has it.

    mode: Pillow's. colours: uint8 [H, W, C], what is encrypted as one. beside: uint8 [H, W, 1], alpha or the
    numbers of a palette, or None. palette: uint8 [256, 4], RGB and alpha. orientation: EXIF's, 1 is upright.
    metadata: whether the file had more, such as EXIF, a colour profile or text, which is left out.
    """

    mode: str
    colours: np.ndarray
    beside: np.ndarray | None
    palette: np.ndarray | None
    orientation: int
    metadata: bool = False

    def map(self, change: Transform) -> Stored:
        """With all arrays that lie on the picture's pixels changed."""
        beside = None if self.beside is None else change(self.beside)
        return self._replace(colours=change(self.colours), beside=beside)

    @property
    def array(self) -> np.ndarray:
        """Colours and what is beside them, [H, W, C]: what an encrypted file holds."""
        return self.colours if self.beside is None else np.dstack((self.colours, self.beside))

    def image(self) -> Image.Image:
        """As a Pillow image of its mode."""
        beside = None if self.beside is None else self.beside[:, :, 0]
        if self.mode == "P":
            assert beside is not None
            assert self.palette is not None
            image = Image.fromarray(beside).convert("P")
            image.putpalette(self.palette[:, :3].tobytes())
            return image
        grey = self.colours[:, :, 0]
        if self.mode == "1":
            return Image.fromarray(grey).convert("1", dither=Image.Dither.NONE)
        if self.mode == "L":
            return Image.fromarray(np.ascontiguousarray(grey))
        if self.mode == "LA":
            assert beside is not None
            return Image.merge("LA", [Image.fromarray(np.ascontiguousarray(a)) for a in (grey, beside)])
        return Image.fromarray(np.ascontiguousarray(self.array))

    def png(self) -> bytes:
        """A PNG file of its mode, with its palette and orientation."""
        options: dict[str, object] = {}
        if self.orientation != 1:
            exif = Image.Exif()
            exif[ORIENTATION] = self.orientation
            options["exif"] = exif
        if self.palette is not None and (self.palette[:, 3] != 255).any():
            options["transparency"] = self.palette[:, 3].tobytes()
        data = io.BytesIO()
        self.image().save(data, "PNG", **options)  # type: ignore[arg-type]
        return data.getvalue()


def channels(mode: str, reading: Reading) -> tuple[int, ...]:
    """The channels of the ciphers that a picture of this mode needs."""
    if reading.mode == "keep":
        if mode in ("1", "L"):
            return (1,)
        if mode == "RGBA":
            return (4,)
    return (3, 1) if mode in BESIDE else (3,)


def header(source: Source, name: object, reading: Reading) -> tuple[Size, tuple[int, ...]]:
    """The size of what is encrypted of a picture file, and the channels of the ciphers that it needs.

    Raises ImageFileError for what is no picture, RefusedError for one that loses something.
    """
    with opened(source, name, reading) as image:
        size = image.size
        if reading.resize is not None:
            size = _resized(size, reading.resize, name, reading)
        if reading.crop is not None:
            size = _crop_size(size, reading.crop, name)
        return size, channels(_mode(image, reading), reading)


def image_header(source: Source) -> tuple[Size, str]:
    """The size and Pillow mode of a picture file as it is. Raises ImageFileError."""
    with _opened(source, source, Reading()) as image:
        return image.size, image.mode


def read(source: Source, name: object, reading: Reading) -> Stored:
    """A picture as it is to be encrypted. Raises ImageFileError naming it."""
    with opened(source, name, reading) as image:
        return stored(image, name, reading)


def read_encrypted(source: Source, name: object, reading: Reading) -> np.ndarray:
    """The pixels [H, W, C] of an encrypted picture file: grey, RGB or RGBA. Raises ImageFileError."""
    with _opened(source, name, reading) as image:
        _check_encrypted(image, name, reading)
        reading.coding.begin(image)
        _load(image, name)
        return _channels_last(reading.coding.pixels(image))


def check_encrypted(source: Source, name: object, reading: Reading) -> None:
    """Raises ImageFileError for what its header tells to be no encrypted picture of this reading."""
    with _opened(source, name, reading) as image:
        _check_encrypted(image, name, reading)


def _check_encrypted(image: Image.Image, name: object, reading: Reading) -> None:
    coding = reading.coding
    modes = ("L", "RGB", "RGBA") if coding.has_alpha else ("L", "RGB")
    if image.format != coding.name or image.mode not in modes or _is_deep(image):
        kinds = "grey, RGB or RGBA" if coding.has_alpha else "grey or RGB"
        raise ImageFileError(f"{name}: not an encrypted picture, which is an 8-bit {kinds} {coding.name}")
    coding.check_file(image, name)


def stored(image: Image.Image, name: object, reading: Reading) -> Stored:
    """The parts of an open picture that `opened` let pass, reduced as `reading` says."""
    _load(image, name)
    # Pillow turns TIFF files itself, for every reader; of others the tag tells.
    orientation = _orientation(image)
    metadata = _has_metadata(image)
    image = _plain(image, reading)
    mode = image.mode
    beside = palette = None
    if mode == "P":
        palette = _palette(image)
        image.info.pop("transparency", None)  # in the palette now; Pillow would warn of it
        beside = np.array(image)[:, :, None]
    elif mode in ("LA", "RGBA"):
        beside = np.array(image.getchannel("A"))[:, :, None]
    first, *more = channels(mode, reading)
    if first == 4:
        mode_read, beside = "RGBA", None
    else:
        mode_read = "L" if first == 1 else "RGB"
    colours = _channels_last(np.array(image.convert(mode_read)))
    if palette is not None and beside is not None:  # a number beyond the palette has a colour, too
        palette[beside[:, :, 0], :3] = colours
    assert bool(more) == (beside is not None)
    result = Stored(mode, colours, beside, palette, orientation, metadata)
    if reading.resize is not None or reading.crop is not None:
        result = result.map(lambda array: _reshaped(array, reading, name))
    return result


@contextlib.contextmanager
def opened(source: Source, name: object, reading: Reading) -> Iterator[Image.Image]:
    """A picture that can be encrypted without loss, or whose loss the user accepts. Raises ImageFileError."""
    with _opened(source, name, reading) as image:
        if not reading.convert and (what := _lossy(image, reading)):
            raise RefusedError(
                f"{name}: {what}, of which 8-bit RGB would keep only a part; convert it first, "
                "accept the loss with convert (--convert), or copy it unencrypted with copy (--copy)"
            )
        yield image


@contextlib.contextmanager
def _opened(source: Source, name: object, reading: Reading) -> Iterator[Image.Image]:
    if reading.max_bytes > MAX_BYTES and Image.MAX_IMAGE_PIXELS is not None:
        # The user has raised the limit; Pillow's is one for the whole process.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, reading.max_bytes // 3)
    with named(name):
        try:
            # Of a path Pillow would map some TIFF files into memory, and not turn them as it turns others.
            with (
                io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
                Image.open(file, formats=FORMATS) as image,
            ):
                if image.width * image.height * 3 > reading.max_bytes:
                    raise too_large(name, f"{image.width} x {image.height} pixels", reading)
                yield image
        except Image.DecompressionBombError as error:
            raise RefusedError(f"{name}: {error}; raise max_bytes (--max-memory) if it is none") from None


def too_large(name: object, what: str, reading: Reading) -> RefusedError:
    return RefusedError(
        f"{name}: {what} would take more than {reading.max_bytes >> 20} MB of memory; "
        "raise max_bytes (--max-memory) if that is meant"
    )


@contextlib.contextmanager
def named(name: object) -> Iterator[None]:
    """Name the file in every error of a decoder; on damaged data Pillow raises much besides OSError."""
    try:
        yield
    except (BlockencError, FileNotFoundError, PermissionError):
        raise
    except UnidentifiedImageError:
        raise ImageFileError(f"{name}: not an image ({', '.join(FORMATS)}), or a damaged one") from None
    except MemoryError:
        raise RefusedError(f"{name}: not enough memory to read it") from None
    except Exception as error:
        raise ImageFileError(f"{name}: cannot be read as a picture ({error})") from None


def same(source: Source, name: object, reading: Reading, restored: bytes, cut: Transform | None) -> bool:
    """Whether a decrypted picture is what is stored in its source: pixels, mode, palette and orientation.

    cut: of arrays [H, W, C], what is compared where only a part is encrypted.
    """
    with opened(source, name, reading) as image, _opened(restored, name, reading) as other:
        if reading.reduces or cut:
            want, got = stored(image, name, reading), stored(other, name, Reading(reading.mode))
            if cut:
                want, got = want.map(cut), got.map(cut)
            pairs = zip(want[:-1], got[:-1])
            return all(np.array_equal(a, b) for a, b in pairs)  # type: ignore[arg-type]
        return _shown(image, name) == _shown(other, name)


def _shown(image: Image.Image, name: object) -> tuple[object, ...]:
    """What a reader can tell of a picture, straight from Pillow."""
    _load(image, name)
    orientation = _orientation(image)
    if image.mode == "P":
        palette, numbers = _palette(image), np.asarray(image)
        colours = np.asarray(image.convert("RGBA"))
        return (
            "P",
            orientation,
            numbers.tobytes(),
            colours.tobytes(),
            palette[: int(numbers.max()) + 1].tobytes(),
        )
    if "transparency" in image.info:
        image = image.convert(_with_alpha(image.mode))
    return image.mode, image.size, orientation, image.tobytes()


def _load(image: Image.Image, name: object) -> None:
    """Decode an open picture. Raises ImageFileError if its size is not the one that its header told."""
    width, height = image.size
    image.load()
    found = image.im.size  # of what is decoded, which `image.size` need not be
    if found != (width, height):
        raise ImageFileError(
            f"{name}: {width} x {height} pixels by its header, {found[0]} x {found[1]} in fact"
        )


def pack_palette(palette: np.ndarray, transform: Transform) -> str:
    """A palette as text, encrypted as a small picture with alpha apart."""
    entries = palette.reshape(*PALETTE, 4)
    parts = transform(entries[:, :, :3]), transform(entries[:, :, 3:])
    return base64.b64encode(np.dstack(parts).tobytes()).decode()


def unpack_palette(text: str, size: Size, transform: Transform) -> np.ndarray:
    """The palette [256, 4]. size: of the picture that `pack_palette` made. Raises ValueError."""
    data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(size[1], size[0], 4)
    parts = transform(data[:, :, :3]), transform(data[:, :, 3:])
    return np.dstack(parts)[: PALETTE[0], : PALETTE[1]].reshape(256, 4)


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # damaged EXIF turns no picture
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation in range(2, 9):
            return int(orientation)
    return 1


def _with_alpha(mode: str) -> str:
    return "RGBA" if mode in ("RGB", "RGBA") else "LA"


def _lossy(image: Image.Image, reading: Reading) -> str | None:
    """What there is of a picture that its 8-bit RGB form does not have, if anything; in words."""
    if _is_deep(image):
        return "more than 8 bits a sample"
    if image.mode not in MODES:
        return f"pixels of mode {image.mode}"
    # A photo with an embedded preview is an MPO of two frames: the first is the photo.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        return "several frames"
    transparent = image.mode in ("LA", "RGBA") or "transparency" in image.info
    if transparent and not reading.coding.has_alpha:
        return f"transparency, for which {reading.coding.name} files have no room"
    return None


def _is_deep(image: Image.Image) -> bool:
    """More than 8 bits a sample, which Pillow reads as 8 in some modes without telling."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    if image.format in ("PNG", "PPM"):
        file = image.fp  # type: ignore[attr-defined]
        place = file.tell()
        file.seek(0)
        head = file.read(1024)
        file.seek(place)
        if image.format == "PNG":
            return bool(head[24] > 8)
        return _ppm_maximum(head) > 255
    return False


def _ppm_maximum(head: bytes) -> int:
    lines = (line.partition(b"#")[0] for line in head.split(b"\n"))
    words = b"\n".join(lines).split()
    return int(words[3]) if words[0] in (b"P2", b"P3", b"P5", b"P6") else 1


def _mode(image: Image.Image, reading: Reading) -> str:
    """The mode of what `_plain` makes of an image."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        mode = "L"
    elif mode not in MODES:
        mode = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}.get(mode, "RGB")
    if reading.resize is not None:  # which makes colours that no palette has
        mode = {"P": "RGB", "1": "L"}.get(mode, mode)
    if "transparency" in image.info and mode != "P":
        mode = _with_alpha(mode)
    if not reading.coding.has_alpha:
        mode = {"P": "RGB", "LA": "L", "RGBA": "RGB"}.get(mode, mode)
    return mode


def _plain(image: Image.Image, reading: Reading) -> Image.Image:
    """An image of one of MODES; transparency that is not in a palette becomes an alpha channel."""
    mode = _mode(image, reading)
    if image.mode == mode:
        return image
    if image.mode.startswith("I") and mode == "L":
        values = np.asarray(image)
        return Image.fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))
    return image.convert(mode)


def _palette(image: Image.Image) -> np.ndarray:
    """All 256 colours of a palette, RGB and alpha; those that the file does not have are black."""
    assert image.palette is not None
    entries = np.zeros((256, 4), np.uint8)
    entries[:, 3] = 255
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    entries[: len(colours), :3] = colours
    if image.palette.mode == "RGBA":
        alphas = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)[:, 3]
        entries[: len(alphas), 3] = alphas
    transparency = image.info.get("transparency")
    if isinstance(transparency, int):
        entries[transparency, 3] = 0
    elif isinstance(transparency, bytes):
        entries[: len(transparency), 3] = np.frombuffer(transparency[:256], np.uint8)
    return entries


def _has_metadata(image: Image.Image) -> bool:
    found = _METADATA & set(image.info)
    with contextlib.suppress(Exception):  # EXIF that cannot be read is there, too
        # Of an orientation alone EXIF takes 32 bytes; a longer one may hold a preview.
        if len(image.info["exif"]) < 64 and set(image.getexif()) == {ORIENTATION}:
            found -= {"exif"}
    tags = set(image.tag_v2) & _TIFF_METADATA if image.format == "TIFF" else set()  # type: ignore[attr-defined]
    return bool(found or tags or getattr(image, "text", None) or image.format == "MPO")


def _resized(size: Size, edges: Edges, name: object, reading: Reading) -> Size:
    if isinstance(edges, int):
        width, height = size
        if width <= height:
            edges = (edges, int(edges * height / width))
        else:
            edges = (int(edges * width / height), edges)
    if edges[0] * edges[1] * 3 > reading.max_bytes:
        raise too_large(name, f"resized to {edges[0]} x {edges[1]} pixels, it", reading)
    return edges


def _crop_size(size: Size, edges: Edges, name: object) -> Size:
    wanted = (edges, edges) if isinstance(edges, int) else edges
    if wanted[0] > size[0] or wanted[1] > size[1]:
        raise RefusedError(
            f"{name}: {size[0]} x {size[1]} pixels, fewer than the crop {wanted[0]} x {wanted[1]}"
        )
    return wanted


def _reshaped(array: np.ndarray, reading: Reading, name: object) -> np.ndarray:
    """An array [H, W, C] resized and cropped as torchvision's Resize and CenterCrop do with Pillow images."""
    height, width = array.shape[:2]
    if reading.resize is not None:
        width, height = _resized((width, height), reading.resize, name, reading)
        # Channel by channel: Pillow would weigh colours by alpha, and a loader that reads RGB does not.
        array = np.dstack(
            [
                np.asarray(
                    Image.fromarray(np.ascontiguousarray(array[:, :, k])).resize(
                        (width, height), Image.Resampling.BILINEAR
                    )
                )
                for k in range(array.shape[2])
            ]
        )
    if reading.crop is not None:
        wide, high = _crop_size((width, height), reading.crop, name)
        top, left = round((height - high) / 2.0), round((width - wide) / 2.0)
        array = array[top : top + high, left : left + wide]
    return array


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[:, :, None]
