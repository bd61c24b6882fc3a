"""Tar shards as webdataset reads them: images and labels as members, in order; all but the pixels stays."""

from __future__ import annotations

import copy
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.data import pixels

if TYPE_CHECKING:
    from blockenc.data.formats import Change

# Members that hold no pictures. Others are refused: a kind of image unknown here would pass unencrypted.
COPIED = re.compile(r".*\.(cls\d*|id|index|json|jsonl|txt|text|csv|tsv|label|caption|target|transcript)")
_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)


class TarShards:
    name = "tar"

    def names(self, file: str) -> bool:
        return _SUFFIX.search(file) is not None

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str) -> str:
        return _SUFFIX.sub(".tar", name)

    def sizes(self, path: Path) -> list[tuple[pixels.Size, int]]:
        return []

    def images(self, path: Path) -> Iterator[np.ndarray]:
        for member, data in _members(path):
            if _is_image(member):
                yield pixels.read(data, f"{path}, {member.name}")[None]

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        written: set[str] = set()
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as out:
            for member, data in _members(source):
                new = copy.copy(member)
                if _is_image(member):
                    (image,) = change(pixels.read(data, f"{source}, {member.name}")[None])
                    data = change.png(image)
                    new.name = re.sub(r"\.\w+$", ".png", member.name)
                    new.pax_headers = {
                        k: v for k, v in member.pax_headers.items() if k not in ("path", "size")
                    }
                if new.name in written:
                    raise ValueError(f"{source}: several members would become {new.name}; rename one")
                written.add(new.name)
                new.size = len(data)
                out.addfile(new, io.BytesIO(data))


def _is_image(member: tarfile.TarInfo) -> bool:
    return member.isreg() and member.name.lower().endswith(pixels.SUFFIXES)


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    try:
        with tarfile.open(path, "r|*") as source:
            for member in source:
                source.members = []  # type: ignore[attr-defined]  # it would remember them all
                copied = member.isdir() or (member.isreg() and COPIED.fullmatch(member.name.lower()))
                if not copied and not _is_image(member):
                    raise pixels.ImageFileError(
                        f"{path}: do not know whether {member.name} holds a picture; images end in "
                        f"{' '.join(pixels.SUFFIXES)}, other members in .cls, .json, .txt or the like"
                    )
                file = source.extractfile(member)
                yield member, file.read() if file else b""
    except (tarfile.TarError, EOFError) as error:
        raise pixels.ImageFileError(f"{path}: not a tar file, or a damaged one ({error})") from None
