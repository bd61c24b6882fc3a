"""What a user asked of a run about files: how they are read, and how pictures are written."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from typing import Any

from blockenc.datasets.coding import PNG, Coding, coding_from
from blockenc.datasets.pixels import Size

MODES = ("rgb", "keep")
# Of one picture, row, member or batch once it is unpacked: a photo of 89 megapixels, as Pillow's own limit.
MAX_BYTES = 256 << 20
MAX_EDGE = (1 << 31) - 1  # pixels; what PNG files admit
_EDGES = re.compile(r"(\d+)(?:[xX](\d+))?", re.ASCII)

Edges = int | Size  # the shorter side, or width and height


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read.

    mode: picture files are encrypted with the three channels that `Image.convert("RGB")` gives ("rgb"), or
        with those that they have, 1, 3 or 4 ("keep").
    convert: accept what conversion to 8-bit RGB loses, such as 16 bits a sample, CMYK and further frames.
    resize, crop: of pictures, as torchvision's Resize (bilinear) and CenterCrop do it.
    copy: patterns of names (fnmatch) that are copied as they are, pictures or not: of files relative to SRC,
        and of what is in them, as `shard.tar/member`, `table.parquet/column`, `arrays.npz/member`. What has
        no name there is `shard.tar/@pax`, headers of members, `table.parquet/@metadata`, of the schema and
        its fields, and `table.parquet/@numbers`, numbers that are suspicious together.
    max_bytes: the most that one picture, row, member or batch may take once it is unpacked.
    coding: how encrypted picture files are coded, PNG or JPEG (blockenc.datasets.coding).

    What follows is of one file. file: its name, below which `copy` looks. copied: names in it that an earlier
    run has let through. trusted: it is our own output, so nothing in it is suspected of being a picture.
    """

    mode: str = "rgb"
    convert: bool = False
    resize: Edges | None = None
    crop: Edges | None = None
    copy: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES
    coding: Coding = PNG
    file: str = ""
    copied: frozenset[str] = frozenset()
    trusted: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        for name in ("resize", "crop"):
            edges = getattr(self, name)
            numbers = (edges,) if isinstance(edges, int) else edges or ()
            if edges is not None and (
                len(numbers) not in (1, 2)
                or any(type(n) is not int or not 0 < n <= MAX_EDGE for n in numbers)
            ):
                raise ValueError(
                    f"{name}: expected a length or (width, height) of 1 to {MAX_EDGE} pixels, got {edges!r}"
                )
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes: expected a positive number of bytes, got {self.max_bytes}")

    def at(self, file: str) -> Reading:
        """The same for one file of SRC."""
        return dataclasses.replace(self, file=file)

    def of_output(self, copied: frozenset[str] | tuple[str, ...] = ()) -> Reading:
        """For a file that this library wrote with this reading, in which `copied` was let through."""
        return Reading(
            mode=self.mode,
            max_bytes=self.max_bytes,
            coding=self.coding,
            copied=frozenset(copied),
            trusted=True,
        )

    def copies(self, member: str = "") -> bool:
        """Whether something in the file, or without a name the file itself, is copied as it is."""
        name = f"{self.file}/{member}" if member else self.file
        return member in self.copied or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.copy)

    @property
    def suffix(self) -> str:
        """Of the picture files that are made of those read: decryption makes PNG files."""
        return PNG.suffix if self.trusted else self.coding.suffix

    @property
    def reduces(self) -> bool:
        """Whether what is encrypted may be less than what the file holds, because the user said so."""
        return self.convert or self.resize is not None or self.crop is not None

    def to_dict(self) -> dict[str, Any]:
        """What manifests note: all that decides about the pixels of a picture that is encrypted."""
        fields = {"mode": self.mode, "resize": _listed(self.resize), "crop": _listed(self.crop)}
        return fields if self.coding == PNG else {**fields, "coding": self.coding.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Reading:
        """Raises ValueError, TypeError or KeyError for other fields than `to_dict` makes."""
        resize, crop = fields["resize"], fields["crop"]
        return cls(
            fields["mode"],
            resize=tuple(resize) if isinstance(resize, list) else resize,
            crop=tuple(crop) if isinstance(crop, list) else crop,
            coding=coding_from(**fields["coding"]) if "coding" in fields else PNG,
        )


DEFAULT = Reading()
# How folders were read before there was a choice.
FORMER = Reading(mode="keep")


def _listed(edges: Edges | None) -> int | list[int] | None:
    return list(edges) if isinstance(edges, tuple) else edges


def parse_edges(name: str, text: str | None) -> Edges | None:
    """`N` or `WxH` of a command line. Raises ValueError."""
    if text is None:
        return None
    match = _EDGES.fullmatch(text)
    if match is None or len(text) > 99:
        raise ValueError(f"{name}: expected N or WxH such as 256 or 320x240, got {text!r}")
    first, second = match.groups()
    return int(first) if second is None else (int(first), int(second))
