"""How encrypted pictures are coded as files: PNG, which keeps every bit, or JPEG, which keeps whole blocks.

JPEG transforms blocks of 8 x 8 pixels, one channel at a time. So it keeps what a step does to whole blocks:
this is Encryption-then-Compression (K. Kurihara, M. Kikuchi, S. Imaizumi, S. Shiota, H. Kiya: "An
Encryption-then-Compression System for JPEG/Motion JPEG Standard", IEICE Trans. E98-A, 2015). With chroma at
half the resolution (4:2:0) a unit of the file is 16 x 16 pixels. What a step does within blocks, JPEG would
mix.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image, JpegImagePlugin

from blockenc.datasets import pixels
from blockenc.datasets.chroma import within_units
from blockenc.datasets.pixels import ImageFileError, Source
from blockenc.files import sha256_of
from blockenc.scheme import Scheme

CODINGS = ("png", "jpeg")
SUBSAMPLINGS = {"444": "4:4:4", "420": "4:2:0"}  # as the user says it, and as people write it
UNITS = {"444": 8, "420": 16}  # pixels, the side of what the file codes together
BEST_QUALITY = 100
QUALITY, SUBSAMPLING = 90, "444"  # the defaults
_FOUND = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # as Pillow tells the subsampling of a file


@dataclasses.dataclass(frozen=True)
class Png:
    """Without loss, for every scheme."""

    name: ClassVar[str] = "PNG"  # Pillow's
    suffix: ClassVar[str] = ".png"
    has_alpha: ClassVar[bool] = True  # whether there is room beside the colours
    exact: ClassVar[bool] = True  # whether pixels come back as they were

    def __str__(self) -> str:
        return self.name

    def check_scheme(self, scheme: Scheme) -> None:
        """Raises ValueError where the coding does not keep what the scheme does."""

    def check_file(self, image: Image.Image, name: object) -> None:
        """Raises ImageFileError for an open picture file that is coded otherwise."""

    def begin(self, image: Image.Image) -> None:
        """Tells the decoder of an open picture file, before it is loaded, what `pixels` needs."""

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The pixels [H, W] or [H, W, C] of a picture file that is loaded."""
        return np.array(image)

    def encode(self, image: np.ndarray) -> bytes:
        """The file of encrypted pixels uint8 [H, W, C]."""
        return pixels.stored_png(image)

    def digest(self, source: Source, image: np.ndarray) -> str:
        """What a manifest has to recognise a file by, whose pixels are `image`."""
        return pixels.digest(image)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; `coding_from(**fields)` is the inverse."""
        return {"format": "png"}


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """With loss, for schemes that move, turn and negate whole blocks or order the channels of each.

    quality: 1 to 100, as libjpeg counts it. subsampling: of chroma, "444" (none; blocks of 8) or "420" (half
    the resolution; blocks of 16). Raises TypeError or ValueError naming the argument.

    >>> from blockenc import Scheme
    >>> from blockenc.steps import Scramble
    >>> Jpeg(80, "420").check_scheme(Scheme(16, [Scramble(period="image")]))
    """

    quality: int = QUALITY
    subsampling: str = SUBSAMPLING

    name: ClassVar[str] = "JPEG"
    suffix: ClassVar[str] = ".jpg"
    has_alpha: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if type(self.quality) is not int:
            raise TypeError(f"quality: expected an integer, got {self.quality!r}")
        if not 1 <= self.quality <= BEST_QUALITY:
            raise ValueError(f"quality: expected 1 to {BEST_QUALITY}, got {self.quality}")
        if self.subsampling not in SUBSAMPLINGS:
            raise ValueError(
                f"subsampling: expected one of {', '.join(SUBSAMPLINGS)}, got {self.subsampling!r}"
            )

    def __str__(self) -> str:
        return f"{self.name}, quality {self.quality}, {SUBSAMPLINGS[self.subsampling]}"

    def check_scheme(self, scheme: Scheme) -> None:
        unit, spelled = UNITS[self.subsampling], SUBSAMPLINGS[self.subsampling]
        for step in scheme.bound_steps:
            b = step.block_size
            assert b is not None
            if step.within_blocks:
                raise ValueError(
                    f"steps: {step.kind} {step.within_blocks} inside of {b} x {b} blocks, which JPEG's "
                    "transform of 8 x 8 blocks mixes; expected steps that leave blocks whole: scramble, "
                    "rotate, np and colour with unit=block; or the format png"
                )
            if b % unit:
                other = ", or 4:4:4, which needs 8" if unit != UNITS["444"] else ""
                raise ValueError(
                    f"steps: {step.kind} has blocks of {b} x {b} pixels, and JPEG with {spelled} codes "
                    f"{unit} x {unit} pixels together; expected a block size that is a multiple of "
                    f"{unit}{other}"
                )

    def check_file(self, image: Image.Image, name: object) -> None:
        found = _FOUND.get(JpegImagePlugin.get_sampling(image), "another subsampling")
        if image.mode != "L" and found != SUBSAMPLINGS[self.subsampling]:
            raise ImageFileError(
                f"{name}: a JPEG with {found}, and its encryption was written with "
                f"{SUBSAMPLINGS[self.subsampling]}; it was compressed anew"
            )

    def begin(self, image: Image.Image) -> None:
        if self.subsampling == "420" and image.mode == "RGB":
            image.draft("YCbCr", image.size)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Each unit of the file by itself: usual decoders interpolate chroma across the borders of units,
        which are no neighbours in the picture that was encrypted."""
        if image.mode != "YCbCr":
            return np.array(image)
        found = np.asarray(image)
        if all(side % UNITS["420"] == 0 for side in image.size):
            found = within_units(found)
        bands = [Image.fromarray(np.ascontiguousarray(found[:, :, k])) for k in range(3)]
        return np.array(Image.merge("YCbCr", bands).convert("RGB"))

    def encode(self, image: np.ndarray) -> bytes:
        file = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))
        picture.save(file, "JPEG", quality=self.quality, subsampling=SUBSAMPLINGS[self.subsampling])
        return file.getvalue()

    def digest(self, source: Source, image: np.ndarray) -> str:
        """Of the file's bytes: decoders need not agree on the pixels."""
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            return sha256_of(file)

    def to_dict(self) -> dict[str, Any]:
        return {"format": "jpeg", "quality": self.quality, "subsampling": self.subsampling}


Coding: TypeAlias = Png | Jpeg
PNG = Png()


def coding_from(format: str = "png", quality: int | None = None, subsampling: str | None = None) -> Coding:
    """The coding of a format. quality, subsampling: go with "jpeg"; None is the default.

    Raises TypeError or ValueError naming the argument.
    """
    if format not in CODINGS:
        raise ValueError(f"format: expected one of {', '.join(CODINGS)}, got {format!r}")
    given = {"quality": quality, "subsampling": subsampling}
    given = {name: value for name, value in given.items() if value is not None}
    if format == "png":
        if given:
            raise ValueError(f"{next(iter(given))}: goes with the format jpeg; PNG files lose nothing")
        return PNG
    return Jpeg(**given)  # type: ignore[arg-type]
