"""Manifests: what an encrypted folder is, beside the key all that decryption needs.

A folder has one manifest, blockenc.json, or one for each shard of the run that made it. It is a JSON
document laid out in lines, one for each file, in the order of their names, and one for each image where a
file holds many. It is read and written line by line: a data set may have more images than fit into memory.

Its last line but one is a tag, HMAC-SHA256 over every byte before that line under a subkey of the key, so
that nobody without the key can change what a manifest says: not the scheme, a size, the list, or which shard
it is. Manifests of version 2 have no tag.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import hmac
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from blockenc.datasets.formats import BY_NAME, IMAGE
from blockenc.datasets.pictures import BESIDE
from blockenc.datasets.pixels import CHANNELS
from blockenc.datasets.reading import DEFAULT, FORMER, Reading
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import Folder, temporary_name
from blockenc.images import FITS
from blockenc.scheme import Scheme

if TYPE_CHECKING:
    from blockenc.keys import Key, KeySet

MANIFEST = "blockenc.json"
FORMAT = "blockenc-manifest"
FORMAT_VERSION = 3
UNTAGGED = 2  # the version before, which is still read
MAC_INFO = "blockenc/manifest"  # names the subkey of the tag
MAX_LINE = 1 << 26  # bytes of a line; the names of what was copied in one file are the longest
MAX_HEAD_LINE = 1 << 14  # bytes of a line before the items
HELD = 256  # pictures of one file that are held in memory
HELD_BYTES = 1 << 18  # of their palettes, which are large where blocks are
_PART = re.compile(r"blockenc\.(\d+)of(\d+)\.json")
_ITEMS = b' "items": {\n'
_MANY = b'"images": ['  # ends the line of a file whose images follow, one a line
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_ITEMS_END = b" },\n"
_TAG = re.compile(rb' "mac": "([0-9a-f]{64})"\n')


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
            for _ in range(self._count):
                with _damage(self.path):
                    picture = Picture(*json.loads(_line_of(file).rstrip(b",\n"))).check()
                yield picture


class PictureLog:
    """Pictures as they are noted: if they are more than HELD, or large, they go to a file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._held, self._count = folder, list[Picture](), 0
        self._path: Path | None = None

    def add(self, pictures: Iterable[Picture]) -> None:
        self._held += pictures
        if len(self._held) > HELD or sum(len(picture.palette) for picture in self._held) > HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        new = 0
        if self._path is None:
            self._path = self._folder / temporary_name("pictures")
            new = os.O_CREAT | os.O_EXCL
        place = Folder(self._folder.parent)  # the work folder's own name may be no link
        name = f"{self._folder.name}/{self._path.name}"
        with open(place.open(name, os.O_WRONLY | os.O_APPEND | new), "ab") as file:
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


def image_id(source: str, kind: str, n: int) -> bytes:
    """The id of image number n, from 0, of a file: its path below SRC with forward slashes, and for formats
    that hold many images `#n` after it."""
    path = os.fsencode(source)
    return path if kind == IMAGE.name else b"%s#%d" % (path, n)


class Item(NamedTuple):
    """One encrypted file: its name below the manifest, with forward slashes; the file it comes from; its
    format (blockenc.datasets.formats); its images; what in it was copied as it is as the user said."""

    name: str
    source: str
    format: str
    images: Pictures
    copied: tuple[str, ...] = ()

    @property
    def key(self) -> bytes:
        """What items are ordered by: file names need not be Unicode."""
        return os.fsencode(self.name)

    def image_id(self, n: int) -> bytes:
        """The id of its image number n, from 0, where each image has keys of its own."""
        return image_id(self.source, self.format, n)

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

    def check(self, reading: Reading = DEFAULT) -> Item:
        """Itself; raises ValueError or KeyError for a name that leads astray.

        A manifest may come from anyone: it must not lead out of its folder, nor to files of other kinds.
        reading: that of the manifest, which says what pictures are written as.
        """
        path, kind = Path(self.name), BY_NAME[self.format]
        foreign = kind.target(self.name, reading).lower() != self.name.lower() or not kind.names(path.name)
        hidden = any(part.startswith(".") for part in path.parts[:-1])  # such as the folder of a journal
        no_name = b"\0" in self.key or not isinstance(self.source, str)
        if path.anchor or ".." in path.parts or foreign or hidden or no_name:
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
    or of one run. reading: how picture files were read. shard: (i, n), of the manifest of one shard. version:
    of the file that was read. per_image: whether each image has keys of its own, by its `Item.image_id`.
    """

    scheme: Scheme
    fingerprint: str
    fit: str
    paths: tuple[Path, ...] = ()
    reading: Reading = DEFAULT
    shard: tuple[int, int] | None = None
    version: int = FORMAT_VERSION
    per_image: bool = False

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
            **({"per_image": True} if self.per_image else {}),
            **({"shard": list(self.shard)} if self.shard else {}),
        }

    def items(self) -> Iterator[Item]:
        """The items in the order of their names. Raises ManifestError where the file is damaged; OSError."""
        last: Item | None = None
        for item in heapq.merge(*map(self._items, self.paths), key=lambda item: item.key):
            if last and item.key <= last.key:
                raise ManifestError(f"{self.paths[0]}: damaged manifest ({item.name!r} is out of order)")
            yield item
            last = item

    def _items(self, path: Path) -> Iterator[Item]:
        own = Manifest.read(path)
        return _items(path, own.version, own.reading)

    def find(self, name: str) -> Item | None:
        return next((item for item in self.items() if item.name == name), None)

    def write(
        self, path: Path, items: Iterable[Item], key: Key | KeySet, *, within: str = "", mode: int = 0o666
    ) -> None:
        """Write it to `path` with these items, in the order of their names, and a tag made with `key`.

        within: the folder below that of `path` for the temporary file. mode: as in `Folder.atomic_file`.
        """
        tag = hmac.new(key.mac_key(MAC_INFO), digestmod=hashlib.sha256)
        with Folder(path.parent).atomic_file(path.name, within=within, mode=mode) as file:

            def put(data: bytes) -> None:
                if len(data) > MAX_LINE:
                    raise ManifestError(f"{path}: more than {MAX_LINE} bytes of names of one file's contents")
                tag.update(data)
                file.write(data)

            put(json.dumps(self.head(), indent=1)[:-2].encode() + b",\n" + _ITEMS[:-1])
            separator = b"\n"
            for item in items:
                put(separator)
                for line in item.lines():
                    put(line)
                separator = b",\n"
            put(b"\n" + _ITEMS_END)
            file.write(f' "mac": "{tag.hexdigest()}"\n}}\n'.encode())

    def authenticate(self, key: Key | KeySet, warn: Callable[[str], object]) -> None:
        """Check that whoever wrote the manifest had the key; `warn` is told of a file too old to have a tag.

        Raises WrongKeyError if the manifest names another key; ManifestError if it was altered.
        """
        if self.fingerprint != key.fingerprint:
            raise WrongKeyError(
                f"{self.paths[0]}: encrypted with the key {self.fingerprint}, "
                f"the key given is {key.fingerprint}"
            )
        for path in self.paths:
            if Manifest.read(path).version == UNTAGGED:
                warn(
                    f"{path}: a manifest of version {UNTAGGED}, which is not authenticated: whoever could "
                    "write to it may have changed what it says"
                )
            else:
                _authenticate(path, key)

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
        version = fields.get("version")
        if version not in (UNTAGGED, FORMAT_VERSION) or isinstance(version, (bool, float)):
            raise ManifestError(
                f"{path}: manifest version {version!r}; this release reads {UNTAGGED} and {FORMAT_VERSION}"
            )
        with _damage(path):
            scheme = Scheme.from_dict({**fields["scheme"], "channels": 1})
            fingerprint, fit = fields["fingerprint"], fields["fit"]
            if not _FINGERPRINT.fullmatch(fingerprint) or fit not in FITS:
                raise ValueError("fingerprint or fit")
            reading = Reading.from_dict(fields["reading"]) if "reading" in fields else FORMER
            per_image = fields.get("per_image", False)
            if not isinstance(per_image, bool):
                raise ValueError("per_image")
            shard = part_of(path.name)
            if version != UNTAGGED and fields.get("shard") != (shard and list(shard)):
                raise ValueError("its name is that of another shard")
        return cls(scheme, fingerprint, fit, (path,), reading, shard, version, per_image)

    def check_same(self, other: Manifest) -> None:
        """Raise WrongKeyError or ManifestError unless `other` has our key, scheme, fit and options."""
        if other.fingerprint != self.fingerprint:
            raise WrongKeyError(
                f"{other.paths[0]}: this folder was encrypted with the key {other.fingerprint}, "
                f"the key given is {self.fingerprint}"
            )
        if (other.scheme, other.fit) != (self.scheme, self.fit):
            raise ManifestError(
                f"{other.paths[0]}: this folder was encrypted with another scheme or fit; give another DST"
            )
        if other.per_image != self.per_image:
            whose = "keys for each image" if other.per_image else "the same keys for all images"
            raise ManifestError(
                f"{other.paths[0]}: this folder was encrypted with {whose} (--per-image); give another DST"
            )
        if (theirs := other.reading.to_dict()) != (ours := self.reading.to_dict()):
            raise ManifestError(
                f"{other.paths[0]}: this folder was encrypted with other options, {theirs} "
                f"instead of {ours}; give those (--mode, --resize, --crop, --format, --quality, "
                "--subsampling) or another DST"
            )


def _head(file: BinaryIO) -> bytes:
    """The lines up to the items."""
    lines = []
    for _ in range(100):
        lines.append(file.readline(MAX_HEAD_LINE))
        if lines[-1] == _ITEMS or not lines[-1].endswith(b"\n"):
            break
    return b"".join(lines)


def _line_of(file: BinaryIO) -> bytes:
    """The next line. Raises ValueError for one that no manifest has, so that memory stays bounded."""
    line = file.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        raise ValueError("a line is too long" if len(line) == MAX_LINE else "it is cut off")
    return line


def _authenticate(path: Path, key: Key | KeySet) -> None:
    """Raise ManifestError unless the tag at the end of the file is that of all before it."""
    tag = hmac.new(key.mac_key(MAC_INFO), digestmod=hashlib.sha256)
    with open(path, "rb") as file, _damage(path):
        tag.update(_head(file))
        while (line := _line_of(file)) != _ITEMS_END:
            tag.update(line)
        tag.update(line)
        found = _tag(file)
    if not hmac.compare_digest(found, tag.hexdigest()):
        raise ManifestError(f"{path}: altered since it was written (its tag is not that of what it says)")


def _tag(file: BinaryIO) -> str:
    """The tag after the items, and nothing else. Raises ValueError."""
    match, rest = _TAG.fullmatch(file.readline(100)), file.read(3)
    if match is None or rest != b"}\n":
        raise ValueError("no tag at its end")
    return match[1].decode()


def _items(path: Path, version: int, reading: Reading) -> Iterator[Item]:
    with open(path, "rb") as file:
        _head(file)
        while True:
            with _damage(path):
                line = _line_of(file)
                if line == _ITEMS_END and version != UNTAGGED:
                    _tag(file)
                    return
                if line == b" }\n" and version == UNTAGGED:
                    if file.read(3) != b"}\n":
                        raise ValueError("it is cut off")
                    return
                text = line.rstrip(b",\n")
                many = text.endswith(_MANY)
                ((name, fields),) = json.loads(b"{" + text + (b"]}}" if many else b"}")).items()
                if many:
                    offset, count = file.tell(), 0
                    while not _line_of(file).startswith(b"  ]}"):
                        count += 1
                    images = Pictures([], path.absolute(), offset, count)
                    item = Item(
                        name, fields["source"], fields["format"], images, tuple(fields.get("copied", ()))
                    )
                else:
                    source = fields.pop("source")
                    item = Item(name, source, IMAGE.name, Pictures([Picture(**fields).check()]))
                item.check(reading)
            yield item


def is_manifest(path: Path) -> bool:
    """Whether a file begins as a manifest does; it may be damaged all the same."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return FORMAT.encode() in file.read(200)


def part_name(shard: int, shards: int) -> str:
    """The name of the manifest of one shard."""
    return f"blockenc.{shard}of{shards}.json"


def part_of(name: str) -> tuple[int, int] | None:
    """The shard whose manifest has this name."""
    match = _PART.fullmatch(name)
    part = (int(match[1]), int(match[2])) if match else None
    return part if part and part_name(*part) == name else None


def manifests(folder: Path) -> list[Path]:
    """The manifests of a folder: the one, or those of the shards, in no order."""
    whole = folder / MANIFEST
    parts = [path for path in folder.glob("blockenc.*of*.json") if part_of(path.name)]
    return [whole] if whole.is_file() else parts


def read_folder(folder: Path) -> Manifest:
    """The manifest of a folder, of all its shards together. Raises ManifestError unless all are there."""
    paths = manifests(folder)
    if not paths:
        raise ManifestError(f"{folder}: no {MANIFEST} here; not an encrypted folder, or not a finished one")
    parts = [part for path in paths if (part := part_of(path.name))]
    counts = {n for _, n in parts}
    if len(counts) > 1:
        raise ManifestError(f"{folder}: manifests of runs with {' and '.join(map(str, counts))} shards")
    if parts:
        here = {i for i, _ in parts}
        absent = (str(i) for i in range(counts.pop()) if i not in here)  # may be very many
        if first_absent := list(itertools.islice(absent, 20)):
            raise ManifestError(f"{folder}: no manifest of shard {', '.join(first_absent)} here")
    first, *others = (Manifest.read(path) for path in paths)
    for other in others:
        first.check_same(other)
    return dataclasses.replace(first, paths=tuple(paths), shard=None)


def find_manifest(file: Path) -> tuple[Manifest, Item | None] | None:
    """The manifest of an encrypted file, beside it or up the tree, and what it says of the file."""
    own = file.with_name(file.name + ".json")
    if is_manifest(own):  # somebody's annotations may have this name
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
