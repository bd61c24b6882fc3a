"""Manifests: what an encrypted folder is, beside the key all that decryption needs.

A folder has one manifest, blockenc.json, or one for each shard of the run that made it. It is a JSON
document laid out in lines, one for each file, in the order of their names, and one for each image where a
file holds many. It is read and written line by line: a data set may have more images than fit into memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from blockenc.data.formats import BY_NAME, IMAGE
from blockenc.data.pictures import BESIDE
from blockenc.data.pixels import CHANNELS, FITS
from blockenc.data.reading import DEFAULT, FORMER, Reading
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import atomic_file
from blockenc.scheme import Scheme

MANIFEST = "blockenc.json"
FORMAT = "blockenc-manifest"
FORMAT_VERSION = 2
HELD = 256  # pictures of one file that are held in memory
_PART = re.compile(r"blockenc\.(\d+)of(\d+)\.json")
_ITEMS = b' "items": {\n'
_MANY = b'"images": ['  # ends the line of a file whose images follow, one a line


class ManifestError(BlockencError, ValueError):
    """A manifest is missing, damaged, or belongs to other data."""


class Picture(NamedTuple):
    """One encrypted image: its original size, and the digest of its encrypted pixels.

    channels: of the encrypted pixels. mode: Pillow's of the stored picture, where this is more or less than
    the encrypted pixels are: "1" and "L" are encrypted as they are or as RGB; of "LA", "RGBA" and "P" the
    fourth channel, alpha or the numbers of the palette, is encrypted apart. orientation: EXIF's. palette: of
    "P", encrypted.
    """

    width: int
    height: int
    channels: int
    sha256: str
    mode: str = ""
    orientation: int = 1
    palette: str = ""

    @property
    def ciphers(self) -> tuple[int, ...]:
        """The channels of the ciphers that decrypt it."""
        return (3, 1) if self.mode in BESIDE else (self.channels,)

    def fields(self) -> dict[str, Any]:
        """The fields that are not at their defaults."""
        return {k: v for k, v in self._asdict().items() if k not in _DEFAULTS or v != _DEFAULTS[k]}

    def check(self) -> Picture:
        """Itself; raises ValueError where a field is not what it should be."""
        if any(type(n) is not int or n < 1 for n in self[:2]):
            raise ValueError("width or height")
        if self.channels not in CHANNELS or not isinstance(self.sha256, str):
            raise ValueError("channels or sha256")
        if self.channels not in _CHANNELS_OF_MODES.get(self.mode, ()):
            raise ValueError("mode")
        if type(self.orientation) is not int or not 1 <= self.orientation <= 8:
            raise ValueError("orientation")
        if not isinstance(self.palette, str) or bool(self.palette) != (self.mode == "P"):
            raise ValueError("palette")
        return self


_DEFAULTS = Picture._field_defaults
_CHANNELS_OF_MODES = {"": CHANNELS, "1": (1, 3), "L": (3,), **dict.fromkeys(BESIDE, (4,))}


class Pictures:
    """The pictures of one file, in order: those `held`, or `count` lines of a file, from `offset` on."""

    def __init__(
        self, held: list[Picture], path: Path | None = None, offset: int = 0, count: int = 0
    ) -> None:
        self.held, self.path, self.offset = held, path, offset
        self._count = count if path else len(held)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Picture]:
        if self.path is None:
            yield from self.held
            return
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for line in itertools.islice(file, self._count):
                with _damage(self.path):
                    picture = Picture(*json.loads(line.rstrip(b",\n"))).check()
                yield picture


class PictureLog:
    """Pictures as they are noted: if there are more than HELD, they go to a file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._held, self._count = folder, list[Picture](), 0
        self._path: Path | None = None

    def add(self, pictures: Iterable[Picture]) -> None:
        self._held += pictures
        if len(self._held) > HELD:
            self._spill()

    def _spill(self) -> None:
        if self._path is None:
            descriptor, name = tempfile.mkstemp(".pictures", ".blockenc.", self._folder)
            os.close(descriptor)
            self._path = Path(name)
        with open(self._path, "ab") as file:
            file.writelines(_line(picture) + b"\n" for picture in self._held)
        self._count += len(self._held)
        self._held = []

    def finish(self) -> Pictures:
        if self._path is None:
            return Pictures(self._held)
        self._spill()
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())
        return Pictures([], self._path, 0, self._count)


class Item(NamedTuple):
    """One encrypted file: its name below the manifest, with forward slashes; the file it comes from; its
    format (blockenc.data.formats); its images; what in it was copied as it is because the user said so."""

    name: str
    source: str
    format: str
    images: Pictures
    copied: tuple[str, ...] = ()

    @property
    def key(self) -> bytes:
        """What items are ordered by: file names need not be Unicode."""
        return os.fsencode(self.name)

    def lines(self) -> Iterator[bytes]:
        """As it stands in a manifest, without the comma and the end of the last line."""
        name = f"  {json.dumps(self.name)}: ".encode()
        if self.format == IMAGE.name:
            (picture,) = self.images
            yield name + json.dumps({"source": self.source, **picture.fields()}).encode()
            return
        copied = {"copied": self.copied} if self.copied else {}
        head = json.dumps({"source": self.source, "format": self.format, **copied})
        yield name + head[:-1].encode() + b", " + _MANY
        separator = b"\n"
        for picture in self.images:
            yield separator + b"   " + _line(picture)
            separator = b",\n"
        yield b"\n  ]}"

    def check(self) -> Item:
        """Itself; raises ValueError or KeyError for a name that leads astray.

        A manifest may come from anyone: it must not lead out of its folder, nor to files of other kinds.
        """
        path, kind = Path(self.name), BY_NAME[self.format]
        foreign = kind.target(self.name).lower() != self.name.lower() or not kind.names(path.name)
        if path.anchor or ".." in path.parts or foreign or not isinstance(self.source, str):
            raise ValueError(f"path {self.name!r}")
        if not all(isinstance(name, str) for name in self.copied):
            raise ValueError("copied")
        return self


def _line(picture: Picture) -> bytes:
    fields = picture.fields()
    names = [name for name in Picture._fields if name in fields]
    return json.dumps(picture[: Picture._fields.index(names[-1]) + 1]).encode()


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns what a malformed field raises into a ManifestError."""
    try:
        yield
    except ManifestError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{path}: damaged manifest (a field is missing or malformed: {error})") from None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What decryption needs besides the key; the items stay in their files.

    scheme: its channels are not used; each image has its own. paths: where it was read, of several shards
    or of one run. reading: how picture files were read.
    """

    scheme: Scheme
    fingerprint: str
    fit: str
    paths: tuple[Path, ...] = ()
    reading: Reading = DEFAULT

    def head(self) -> dict[str, Any]:
        """All but the items, as JSON."""
        scheme = self.scheme.to_dict()
        del scheme["channels"]
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "scheme": scheme,
            "fingerprint": self.fingerprint,
            "fit": self.fit,
            "reading": self.reading.to_dict(),
        }

    def items(self) -> Iterator[Item]:
        """The items in the order of their names. Raises ManifestError where the file is damaged; OSError."""
        last: Item | None = None
        for item in heapq.merge(*map(_items, self.paths), key=lambda item: item.key):
            if last and item.key <= last.key:
                raise ManifestError(f"{self.paths[0]}: damaged manifest ({item.name!r} is out of order)")
            yield item
            last = item

    def find(self, name: str) -> Item | None:
        return next((item for item in self.items() if item.name == name), None)

    def write(self, path: Path, items: Iterable[Item], folder: Path) -> None:
        """Write it to `path` with these items, in the order of their names. folder: for temporary files."""
        with atomic_file(path, folder=folder) as file:
            file.write(json.dumps(self.head(), indent=1)[:-2].encode() + b",\n" + _ITEMS[:-1])
            separator = b"\n"
            for item in items:
                file.write(separator)
                file.writelines(item.lines())
                separator = b",\n"
            file.write(b"\n }\n}\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """All but the items. Raises ManifestError or OSError."""
        with open(path, "rb") as file:
            head = _head(file)
        try:
            fields = json.loads(head + b"}}")
        except (ValueError, RecursionError):
            raise ManifestError(f"{path}: damaged manifest (not JSON, or not laid out in lines)") from None
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise ManifestError(f"{path}: not a blockenc manifest, or a damaged one")
        if fields.get("version") != FORMAT_VERSION:
            raise ManifestError(
                f"{path}: manifest version {fields.get('version')!r}; this release reads {FORMAT_VERSION}"
            )
        with _damage(path):
            scheme = Scheme.from_dict({**fields["scheme"], "channels": 1})
            fingerprint, fit = fields["fingerprint"], fields["fit"]
            if not isinstance(fingerprint, str) or fit not in FITS:
                raise ValueError("fingerprint or fit")
            reading = Reading.from_dict(fields["reading"]) if "reading" in fields else FORMER
        return cls(scheme, fingerprint, fit, (path,), reading)

    def check_same(self, other: Manifest) -> None:
        """Raise WrongKeyError or ManifestError unless `other` has our key, scheme and fit."""
        if other.fingerprint != self.fingerprint:
            raise WrongKeyError(
                f"{other.paths[0]}: this folder was encrypted with the key {other.fingerprint}, "
                f"the key given is {self.fingerprint}"
            )
        if (other.scheme, other.fit) != (self.scheme, self.fit):
            raise ManifestError(
                f"{other.paths[0]}: this folder was encrypted with another scheme or fit; give another DST"
            )
        if (theirs := other.reading.to_dict()) != (ours := self.reading.to_dict()):
            raise ManifestError(
                f"{other.paths[0]}: this folder was encrypted with other options, {theirs} "
                f"instead of {ours}; give those (--mode, --resize, --crop) or another DST"
            )


def _head(file: BinaryIO) -> bytes:
    """The lines up to the items."""
    lines = []
    for line in itertools.islice(file, 100):
        lines.append(line)
        if line == _ITEMS:
            break
    return b"".join(lines)


def _items(path: Path) -> Iterator[Item]:
    with open(path, "rb") as file:
        _head(file)
        for line in file:
            if line == b" }\n":
                if file.read(3) == b"}\n":
                    return
                break
            text = line.rstrip(b",\n")
            many = text.endswith(_MANY)
            with _damage(path):
                ((name, fields),) = json.loads(b"{" + text + (b"]}}" if many else b"}")).items()
                if many:
                    offset, count = file.tell(), 0
                    while not (line := file.readline()).startswith(b"  ]}"):
                        if not line:
                            raise ValueError("it is cut off")
                        count += 1
                    images = Pictures([], path.absolute(), offset, count)
                    item = Item(
                        name, fields["source"], fields["format"], images, tuple(fields.get("copied", ()))
                    )
                else:
                    source = fields.pop("source")
                    item = Item(name, source, IMAGE.name, Pictures([Picture(**fields).check()]))
                item.check()
            yield item
    raise ManifestError(f"{path}: damaged manifest (it is cut off)")


def part_name(shard: int, shards: int) -> str:
    """The name of the manifest of one shard."""
    return f"blockenc.{shard}of{shards}.json"


def manifests(folder: Path) -> list[Path]:
    """The manifests of a folder: the one, or those of the shards, in no order."""
    whole = folder / MANIFEST
    parts = [path for path in folder.glob("blockenc.*of*.json") if _PART.fullmatch(path.name)]
    return [whole] if whole.is_file() else parts


def read_folder(folder: Path) -> Manifest:
    """The manifest of a folder, of all its shards together. Raises ManifestError unless all are there."""
    paths = manifests(folder)
    if not paths:
        raise ManifestError(f"{folder}: no {MANIFEST} here; not an encrypted folder, or not a finished one")
    parts = [match.groups() for path in paths if (match := _PART.fullmatch(path.name))]
    counts = {int(n) for _, n in parts}
    if len(counts) > 1:
        raise ManifestError(f"{folder}: manifests of runs with {' and '.join(map(str, counts))} shards")
    if parts and (absent := set(range(counts.pop())) - {int(i) for i, _ in parts}):
        raise ManifestError(f"{folder}: no manifest of shard {', '.join(map(str, sorted(absent)))} here")
    first, *others = (Manifest.read(path) for path in paths)
    for other in others:
        first.check_same(other)
    return dataclasses.replace(first, paths=tuple(paths))


def find_manifest(file: Path) -> tuple[Manifest, Item | None] | None:
    """The manifest of an encrypted file, beside it or up the tree, and what it says of the file."""
    own = file.with_name(file.name + ".json")
    if own.is_file():
        manifest = Manifest.read(own)
        return manifest, manifest.find(file.name)
    file = file.absolute()
    for folder in file.parents:
        found = None
        for path in manifests(folder):
            manifest = Manifest.read(path)
            found = manifest, manifest.find(file.relative_to(folder).as_posix())
            if found[1]:
                return found
        if found:
            return found
    return None
