"""Manifests: what an encrypted folder is, beside the key all that decryption needs.

A folder has one manifest, blockenc.json, or one for each shard of the run that made it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blockenc.data.formats import BY_NAME, IMAGE
from blockenc.data.pixels import CHANNELS, FITS
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.scheme import Scheme

MANIFEST = "blockenc.json"
FORMAT = "blockenc-manifest"
FORMAT_VERSION = 1
_PART = re.compile(r"blockenc\.(\d+)of(\d+)\.json")


class ManifestError(BlockencError, ValueError):
    """A manifest is missing, damaged, or belongs to other data."""


class Picture(NamedTuple):
    """One encrypted image: its original size, and the digest of its encrypted pixels."""

    width: int
    height: int
    channels: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One encrypted file: where it comes from, its format (blockenc.data.formats), its images in order."""

    source: str
    format: str
    images: tuple[Picture, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: one flat record for an image file, a list of images for the formats of many."""
        if self.format == IMAGE.name:
            return {"source": self.source, **self.images[0]._asdict()}
        return {"source": self.source, "format": self.format, "images": [list(p) for p in self.images]}

    @classmethod
    def from_dict(cls, name: str, fields: Mapping[str, Any]) -> Item:
        """Raises KeyError, TypeError or ValueError on anything but what `to_dict` gives for such a name."""
        if "format" in fields:
            pictures = tuple(Picture(*fields) for fields in fields["images"])
            item = cls(fields["source"], fields["format"], pictures)
        else:
            sizes = {key: value for key, value in fields.items() if key != "source"}
            item = cls(fields["source"], IMAGE.name, (Picture(**sizes),))
        for picture in item.images:
            numbers = picture[:3]
            if any(type(n) is not int or n < 1 for n in numbers):
                raise ValueError("width, height or channels")
            if picture.channels not in CHANNELS.values() or not isinstance(picture.sha256, str):
                raise ValueError("channels or sha256")
        if not isinstance(item.source, str):
            raise ValueError("source")
        # A manifest may come from anyone: it must not lead out of its folder, nor to files of other kinds.
        path, kind = Path(name), BY_NAME[item.format]
        foreign = kind.target(name).lower() != name.lower() or not kind.names(path.name)
        if path.anchor or ".." in path.parts or foreign:
            raise ValueError(f"path {name!r}")
        return item


@dataclasses.dataclass
class Manifest:
    """What decryption needs besides the key. The channels are those of each image, not the scheme's."""

    scheme: Scheme
    fingerprint: str
    fit: str
    items: dict[str, Item]  # by path relative to the manifest, with forward slashes

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
        }

    def to_json(self) -> str:
        items = {name: item.to_dict() for name, item in sorted(self.items.items())}
        # One line an item: readable, and a tenth of the lines that an indented list of images takes.
        lines = [f"  {json.dumps(name)}: {json.dumps(fields)}" for name, fields in items.items()]
        head = json.dumps(self.head(), indent=1)[:-2]
        return head + ',\n "items": {\n' + ",\n".join(lines) + "\n }\n}\n"

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
            items = {name: Item.from_dict(name, item) for name, item in fields["items"].items()}
            fingerprint, fit = fields["fingerprint"], fields["fit"]
            if not isinstance(fingerprint, str) or fit not in FITS:
                raise ValueError("fingerprint or fit")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(
                f"{path}: damaged manifest (a field is missing or malformed: {error})"
            ) from None
        return cls(scheme, fingerprint, fit, items)

    def check_same(self, other: Manifest, path: Path) -> None:
        """Raise WrongKeyError or ManifestError unless `other`, of `path`, has our key, scheme and fit."""
        if other.fingerprint != self.fingerprint:
            raise WrongKeyError(
                f"{path}: this folder was encrypted with the key {other.fingerprint}, "
                f"the key given is {self.fingerprint}"
            )
        if (other.scheme, other.fit) != (self.scheme, self.fit):
            raise ManifestError(
                f"{path}: this folder was encrypted with another scheme or fit; give another DST"
            )


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
    for other, path in zip(others, paths[1:]):
        first.check_same(other, path)
        first.items.update(other.items)
    return first


def find_manifest(file: Path) -> tuple[Path, str, Manifest] | None:
    """The manifest of an encrypted file, and the file's name in it: beside it, or up the tree."""
    own = file.with_name(file.name + ".json")
    if own.is_file():
        return own, file.name, Manifest.read(own)
    file = file.absolute()
    for folder in file.parents:
        name = file.relative_to(folder).as_posix()
        found = None
        for path in manifests(folder):
            found = (path, name, Manifest.read(path))
            if name in found[2].items:
                return found
        if found:
            return found
    return None
