"""Files and folder trees of images, encrypted to PNG and back, with a manifest that says how.

A run either succeeds or changes nothing: everything that can be checked from names, headers and the
manifest is checked first, results are gathered in a hidden folder inside the destination, and they are
moved into place, the manifest last, when all of them are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from blockenc.cipher import Cipher
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import atomic_write, sync_folder
from blockenc.key import Key
from blockenc.scheme import Scheme

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FITS = ("error", "crop", "pad")
MANIFEST = "blockenc.json"
FORMAT = "blockenc-manifest"
FORMAT_VERSION = 1
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}

Size = tuple[int, int]  # width, height
Track = Callable[[Iterable[int], int], Iterable[int]]  # pixels of each image done, and how many will come


class ImageFileError(BlockencError, ValueError):
    """An image file cannot be read, or is not what the manifest says it is."""


class ManifestError(BlockencError, ValueError):
    """A manifest is missing, damaged, or belongs to other data."""


class Summary(NamedTuple):
    """What a run did. skipped: files of SRC that are not images by their suffix."""

    images: int
    pixels: int
    skipped: int = 0


@dataclasses.dataclass(frozen=True)
class Item:
    """One encrypted image: where it comes from, its original size, the digest of its encrypted pixels."""

    source: str
    width: int
    height: int
    channels: int
    sha256: str

    def __post_init__(self) -> None:
        numbers = (self.width, self.height, self.channels)
        if any(type(n) is not int or n < 1 for n in numbers) or self.channels not in CHANNELS.values():
            raise ValueError("width, height or channels")
        if not isinstance(self.source, str) or not isinstance(self.sha256, str):
            raise ValueError("source or sha256")


@dataclasses.dataclass
class Manifest:
    """What decryption needs besides the key. The channels are those of each item, not the scheme's."""

    scheme: Scheme
    fingerprint: str
    fit: str
    items: dict[str, Item]  # by path relative to the manifest, with forward slashes

    def to_json(self) -> str:
        scheme = self.scheme.to_dict()
        del scheme["channels"]
        fields = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "scheme": scheme,
            "fingerprint": self.fingerprint,
            "fit": self.fit,
            "items": {name: dataclasses.asdict(item) for name, item in sorted(self.items.items())},
        }
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises ManifestError unless it is whole and names only files below its own folder; OSError."""
        try:
            fields = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise ManifestError(f"{path}: damaged manifest (not JSON)") from None
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise ManifestError(f"{path}: not a blockenc manifest, or a damaged one")
        if fields.get("version") != FORMAT_VERSION:
            raise ManifestError(
                f"{path}: manifest version {fields.get('version')!r}; this release reads {FORMAT_VERSION}"
            )
        try:
            scheme = Scheme.from_dict({**fields["scheme"], "channels": 1})
            items = {_checked_name(name): Item(**item) for name, item in fields["items"].items()}
            fingerprint, fit = fields["fingerprint"], fields["fit"]
            if not isinstance(fingerprint, str) or fit not in FITS:
                raise ValueError("fingerprint or fit")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(
                f"{path}: damaged manifest (a field is missing or malformed: {error})"
            ) from None
        return cls(scheme, fingerprint, fit, items)


def _checked_name(name: str) -> str:
    """A manifest may come from anyone: it must not lead out of its folder."""
    path = Path(name)
    if path.anchor or ".." in path.parts or path.suffix.lower() != ".png":
        raise ValueError(f"path {name!r}")
    return name


def find_manifest(image: Path) -> tuple[Path, str] | None:
    """The manifest of an encrypted image, and the image's name in it: beside it, or up the tree."""
    own = image.with_name(image.name + ".json")
    if own.is_file():
        return own, image.name
    image = image.absolute()
    for folder in image.parents:
        if (folder / MANIFEST).is_file():
            return folder / MANIFEST, image.relative_to(folder).as_posix()
    return None


def _untracked(done: Iterable[int], total: int) -> Iterable[int]:
    return done


def encrypt_files(
    src: Path,
    dst: Path,
    key: Key,
    scheme: Scheme,
    *,
    fit: str = "error",
    backend: str | None = None,
    force: bool = False,
    track: Track = _untracked,
) -> Summary:
    """Encrypt an image file, or the images of a folder tree, to PNG files and a manifest.

    src: names that start with a dot are left out. EXIF orientation is applied; other metadata is dropped.
    dst: a folder; for one image also the .png file to write, whose manifest is then `<file>.json`.
    scheme: its channels are not used; grey, RGB and RGBA images are encrypted with 1, 3 and 4.
    fit: what becomes of an image that the block size does not divide: an error; cropped at the right and
        bottom; or padded there by repeating the edge, which decryption undoes.
    force: overwrite files in dst that no manifest there lists.

    Raises ValueError, BlockencError or OSError, and has then written nothing.
    """
    if fit not in FITS:
        raise ValueError(f"fit: expected one of {', '.join(FITS)}, got {fit!r}")
    if scheme.ffx == "decimal" and "ffx" in scheme.steps:
        raise ValueError(
            "ffx: PNG files hold bytes and the decimal profile's values do not fit; "
            "use the byte profile here, or blockenc.Cipher from Python"
        )
    folder, manifest_name, sources, skipped = _plan(src, dst)
    scheme = dataclasses.replace(scheme, channels=1)
    manifest = Manifest(scheme, key.fingerprint, fit, {})
    if (folder / manifest_name).exists():
        manifest.items.update(_same_run(folder / manifest_name, manifest).items)
    _check_targets(folder, sources, known=manifest.items, force=force)
    channels = _check_headers(sources.values(), scheme.block_size, fit)
    ciphers = _ciphers(key, scheme, channels, backend)
    root = src if src.is_dir() else src.parent

    def work(name: str, target: Path) -> int:
        pixels = _read_source(sources[name])
        height, width, channels = (int(n) for n in pixels.shape)
        encrypted = ciphers[channels].encrypt(_fit(pixels, scheme.block_size, fit))
        # Encrypted pixels are close to noise: searching them for repeats takes time and finds none.
        _write_png(target, encrypted, compress_type=zlib.Z_RLE)
        source = sources[name].relative_to(root).as_posix()
        manifest.items[name] = Item(source, width, height, channels, _digest(encrypted))
        return width * height

    with _staging(folder) as staging:
        done = list(track(_parallel(work, sources, staging), len(sources)))
        atomic_write(staging / manifest_name, manifest.to_json().encode())
        _move(staging, folder, [*sources, manifest_name])
    return Summary(len(done), sum(done), skipped)


def decrypt_files(
    src: Path,
    dst: Path,
    key: Key,
    *,
    backend: str | None = None,
    force: bool = False,
    track: Track = _untracked,
) -> Summary:
    """Decrypt what `encrypt_files` wrote: a folder, or one image of it, to PNG files of the original size.

    Raises WrongKeyError if the manifest names another key; ManifestError; ImageFileError for an image that
    is not as it was encrypted; OSError. It has then written nothing.
    """
    if src.is_dir():
        path = src / MANIFEST
        if not path.is_file():
            raise ManifestError(f"{src}: no {MANIFEST} here; it is needed to decrypt a folder")
        manifest = Manifest.read(path)
        wanted = {name: src / name for name in manifest.items}
        items = manifest.items
        _check_apart(src, dst)
        folder = _as_folder(dst)
    else:
        if not src.is_file():
            raise FileNotFoundError(2, "no such file or folder", str(src))
        found = find_manifest(src)
        if found is None:
            raise ManifestError(
                f"{src}: no {src.name}.json or {MANIFEST} beside it; one is needed to decrypt"
            )
        path, listed = found
        manifest = Manifest.read(path)
        if listed not in manifest.items:
            raise ManifestError(f"{path}: does not list {listed}")
        folder, name = _single_target(src, dst)
        wanted, items = {name: src}, {name: manifest.items[listed]}
    if manifest.fingerprint != key.fingerprint:
        raise WrongKeyError(
            f"{path}: encrypted with the key {manifest.fingerprint}, the key given is {key.fingerprint}"
        )
    for file in wanted.values():
        if not file.is_file():
            raise FileNotFoundError(2, "listed in the manifest, and missing", str(file))
    _check_targets(folder, wanted, known=(), force=force)
    ciphers = _ciphers(key, manifest.scheme, {item.channels for item in items.values()}, backend)

    def work(name: str, target: Path) -> int:
        item = items[name]
        encrypted = _read_exact(wanted[name])
        size = fitted_size((item.width, item.height), manifest.scheme.block_size, manifest.fit)
        if encrypted.shape != (size[1], size[0], item.channels) or _digest(encrypted) != item.sha256:
            raise ImageFileError(f"{wanted[name]}: not the image that the manifest lists; it was altered")
        pixels = ciphers[item.channels].decrypt(encrypted)[: item.height, : item.width]
        _write_png(target, pixels)
        return item.width * item.height

    with _staging(folder) as staging:
        done = list(track(_parallel(work, wanted, staging), len(wanted)))
        _move(staging, folder, wanted)
    return Summary(len(done), sum(done))


def fitted_size(size: Size, block_size: int, fit: str) -> Size:
    """The size of an encrypted image: multiples of the block size, the next larger ones for "pad"."""
    extra = block_size - 1 if fit == "pad" else 0
    width, height = ((n + extra) // block_size * block_size for n in size)
    return width, height


def image_header(path: Path) -> tuple[Size, str]:
    """The size and Pillow mode of an image file. Raises ImageFileError."""
    with _reading(path), Image.open(path) as image:
        return image.size, image.mode


# --- what is to be done: names, clashes, sizes ---


def _plan(src: Path, dst: Path) -> tuple[Path, str, dict[str, Path], int]:
    """The folder to write to, the manifest's name in it, the sources by output name, files left out."""
    if src.is_file():
        folder, name = _single_target(src, dst)
        return folder, MANIFEST if folder == dst else f"{name}.json", {name: src}, 0
    if not src.is_dir():
        raise FileNotFoundError(2, "no such file or folder", str(src))
    _check_apart(src, dst)
    sources: dict[str, Path] = {}
    skipped = 0
    for path in sorted(src.rglob("*")):
        relative = path.relative_to(src)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if path.suffix.lower() not in SUFFIXES:
            skipped += 1
            continue
        other = sources.setdefault(relative.with_suffix(".png").as_posix(), path)
        if other is not path:
            raise ValueError(
                f"{other} and {path} would both become {relative.with_suffix('.png')}; rename one"
            )
    if not sources:
        raise ValueError(f"{src}: no images here (looked for {' '.join(SUFFIXES)})")
    return _as_folder(dst), MANIFEST, sources, skipped


def _single_target(src: Path, dst: Path) -> tuple[Path, str]:
    """Where one image goes: into the folder `dst`, or to the file `dst` if that ends in .png."""
    if dst.suffix.lower() == ".png" and not dst.is_dir():
        folder, name = dst.parent, dst.name
    else:
        folder, name = _as_folder(dst), f"{src.stem}.png"
    if (folder / name).resolve() == src.resolve():
        raise ValueError(f"{dst}: is SRC itself; give another DST")
    return folder, name


def _as_folder(dst: Path) -> Path:
    if dst.exists() and not dst.is_dir():
        raise NotADirectoryError(20, "exists, and is not a folder", str(dst))
    return dst


def _check_apart(src: Path, dst: Path) -> None:
    a, b = src.resolve(), dst.resolve()
    if b.is_relative_to(a) or a.is_relative_to(b):
        raise ValueError(f"{dst}: DST and SRC ({src}) must be apart, neither within the other")


def _check_targets(folder: Path, names: Iterable[str], known: Iterable[str], force: bool) -> None:
    """Nothing is in the way of the files to write, and no file of unknown origin is overwritten."""
    known = set(known)
    for name in names:
        target = folder / name
        if target.is_dir():
            raise IsADirectoryError(21, "is a folder, where a file is to be written", str(target))
        if target.exists() and not force and name not in known:
            raise FileExistsError(17, "exists, and is not overwritten without --force", str(target))
        for parent in (folder / path for path in PurePosixPath(name).parents):
            if parent.exists() and not parent.is_dir():
                raise NotADirectoryError(20, "is a file, where a folder is needed", str(parent))


def _same_run(path: Path, new: Manifest) -> Manifest:
    """The manifest there already, if it goes with the new one."""
    old = Manifest.read(path)
    if old.fingerprint != new.fingerprint:
        raise WrongKeyError(
            f"{path}: this folder was encrypted with the key {old.fingerprint}, "
            f"the key given is {new.fingerprint}"
        )
    if (old.scheme, old.fit) != (new.scheme, new.fit):
        raise ManifestError(f"{path}: this folder was encrypted with another scheme or fit; give another DST")
    return old


def _check_headers(paths: Iterable[Path], block_size: int, fit: str) -> set[int]:
    """The channel counts that occur. Raises if a file is no image, or its size does not fit.

    EXIF orientation, which would cost decoding, is not needed here: it only swaps width and height.
    """
    channels = set()
    misfits = []
    for path in paths:
        with _reading(path), Image.open(path) as image:
            channels.add(CHANNELS[_target_mode(image, path)])
            size = image.size
        fitted = fitted_size(size, block_size, fit)
        if 0 in fitted or (fit == "error" and fitted != size):
            misfits.append(f"{path}: {size[0]} x {size[1]} pixels")
    if misfits:
        more = f" (and {len(misfits) - 1} more images)" if len(misfits) > 1 else ""
        hint = "too small for" if fit == "crop" else "not a multiple of"
        advice = "use fit pad" if fit == "crop" else "use fit crop or pad"
        raise ValueError(f"{misfits[0]} is {hint} the block size {block_size}{more}; {advice}")
    return channels


def _ciphers(key: Key, scheme: Scheme, channels: set[int], backend: str | None) -> dict[int, Cipher]:
    return {c: Cipher(key, dataclasses.replace(scheme, channels=c), backend=backend) for c in channels}


# --- pixels ---


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in every error of a decoder; on damaged data Pillow raises much besides OSError."""
    try:
        yield
    except (BlockencError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageFileError(f"{path}: not an image, or a damaged one") from None
    except Exception as error:
        raise ImageFileError(f"{path}: cannot be read as an image ({error})") from None


def _target_mode(image: Image.Image, path: Path) -> str:
    """The mode of `CHANNELS` that an image is converted to."""
    mode = image.mode
    if mode in CHANNELS:
        return mode
    if mode == "1" or _is_16_bit(image):
        return "L"
    if mode in ("I", "F"):
        raise ImageFileError(f"{path}: pixels of mode {mode} have no 8-bit form; convert them first")
    if mode in ("LA", "PA") or (mode == "P" and "transparency" in image.info):
        return "RGBA"
    return "RGB"


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _read_source(path: Path) -> np.ndarray:
    """The pixels [H, W, C] of an image, upright; of 16-bit grey the high byte."""
    with _reading(path), Image.open(path) as image:
        # A photo with an embedded preview is an MPO of two frames: the first is the photo.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ImageFileError(f"{path}: several frames; only still images are encrypted")
        mode, wide = _target_mode(image, path), _is_16_bit(image)
        upright = ImageOps.exif_transpose(image)
        if wide:
            return _channels_last((np.asarray(upright) >> 8).astype(np.uint8))
        return _channels_last(np.array(upright.convert(mode)))


def _read_exact(path: Path) -> np.ndarray:
    with _reading(path), Image.open(path) as image:
        return _channels_last(np.array(image))


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[:, :, None]


def _fit(pixels: np.ndarray, block_size: int, fit: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    right, bottom = fitted_size((width, height), block_size, fit)
    if fit == "pad":
        return np.pad(pixels, ((0, bottom - height), (0, right - width), (0, 0)), mode="edge")
    return pixels[:bottom, :right]


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _write_png(target: Path, pixels: np.ndarray, **options: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    atomic_write(target, data.getvalue())


# --- files ---


def _parallel(work: Callable[[str, Path], int], names: Mapping[str, Any], staging: Path) -> Iterator[int]:
    """Do the work of each name in threads; the first error, or Ctrl-C, cancels what has not begun."""

    def one(name: str) -> int:
        target = staging / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return work(name, target)
        except OSError as error:
            if error.errno is None:
                raise
            # The staging folder's names mean nothing to the user, and some errors carry no name at all.
            raise OSError(error.errno, error.strerror or str(error), str(staging.parent / name)) from None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            yield from pool.map(one, names)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`, gone afterwards; on an error, so are the folders made for it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".blockenc-", dir=folder) as name:
            yield Path(name)
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # only if empty
        raise


def _move(staging: Path, folder: Path, names: Iterable[str]) -> None:
    parents = set()
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, target)
        parents.add(target.parent)
    for parent in parents:
        sync_folder(parent)
