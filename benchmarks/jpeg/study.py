"""Photos, encrypted, coded as JPEG, decoded and decrypted, beside the same photos coded plain."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import blockenc
from blockenc.datasets import pictures
from blockenc.datasets.coding import SUBSAMPLINGS, Jpeg
from blockenc.datasets.pixels import SUFFIXES
from blockenc.datasets.reading import Reading
from blockenc.steps import Colour, Np, Rotate, Scramble, Step

QUALITIES = (50, 60, 70, 80, 90, 95)
SIDE = 16  # photos are cropped to multiples of it, so that every scheme has the same pixels
MOVED = (3, 5)  # pixels down and right: photos that were JPEG files are taken off their grid of blocks
PLAIN, SCRAMBLE, ALL, SHUFFLE = "plain", "scramble", "all steps", "shuffle"
STEPS: dict[str, list[str | Step]] = {
    SCRAMBLE: [Scramble(period="image")],
    ALL: [
        Scramble(period="image"),
        Rotate(period="image"),
        Np(unit="block", period="image"),
        Colour(period="image"),
    ],
    SHUFFLE: ["shuffle"],
}


class Case(NamedTuple):
    """What is done to a photo before it is coded, and how its chroma is sampled."""

    name: str
    block_size: int | None
    subsampling: str

    def cipher(self, key: blockenc.Key) -> blockenc.Cipher | None:
        if self.block_size is None:
            return None
        return blockenc.Cipher(key, block_size=self.block_size, steps=STEPS[self.name])

    @property
    def refused(self) -> bool:
        """Whether `blockenc encrypt --format jpeg` refuses it."""
        if self.block_size is None:
            return False
        try:
            Jpeg(subsampling=self.subsampling).check_scheme(
                blockenc.Scheme(self.block_size, STEPS[self.name])  # type: ignore[arg-type]
            )
        except ValueError:
            return True
        return False


CASES = [
    *(Case(PLAIN, None, subsampling) for subsampling in SUBSAMPLINGS),
    *(Case(name, size, "444") for name in (SCRAMBLE, ALL) for size in (8, 16)),
    *(Case(name, 16, "420") for name in (SCRAMBLE, ALL)),
    Case(SHUFFLE, 8, "444"),
]


def photos(folder: Path, least: int = 1) -> list[np.ndarray]:
    """The pictures below a folder as RGB [H, W, 3], moved and cropped. Raises ValueError for fewer."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))[MOVED[0] :, MOVED[1] :]
            height, width = (side // SIDE * SIDE for side in pixels.shape[:2])
            if height and width:
                found.append(np.ascontiguousarray(pixels[:height, :width]))
    if len(found) < least:
        raise ValueError(f"--data: expected at least {least} pictures below {folder}, got {len(found)}")
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 arrays, in dB."""
    error = np.square(a.astype(np.float32) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def measure(case: Case, images: Sequence[np.ndarray], key: blockenc.Key) -> Iterator[dict[str, Any]]:
    """For each quality the means over the photos: bits a pixel, and PSNR in dB after decryption of what
    `blockenc decrypt` reads of the file, and of what a usual decoder gives. Plain photos have the latter
    alone."""
    cipher = case.cipher(key)
    rows = {quality: np.zeros(3) for quality in QUALITIES}
    for image in images:
        encrypted = image if cipher is None else cipher.encrypt(image)
        for quality, sums in rows.items():
            coding = Jpeg(quality, case.subsampling)
            data = coding.encode(encrypted)
            with Image.open(io.BytesIO(data)) as opened:
                found = [np.asarray(opened)] * 2
            if cipher is not None:
                found[0] = pictures.read_encrypted(data, "a photo", Reading(coding=coding))
                found = [cipher.decrypt(pixels) for pixels in found]
            bits = 8 * len(data) / (image.shape[0] * image.shape[1])
            sums += bits, *(psnr(pixels, image) for pixels in found)
    for quality, sums in rows.items():
        bits, ours, usual = (float(value) for value in np.round(sums / len(images), 4))
        yield {**case._asdict(), "refused": case.refused, "quality": quality, "bits": bits,
               "psnr": ours, "usual": usual}  # fmt: skip
