"""One unit of work: a file of SRC to a file of DST. All a worker runs and all it is sent, without the key."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from blockenc.cipher import Cipher
from blockenc.data import pixels
from blockenc.data.formats import BY_NAME, Format
from blockenc.data.manifest import Item, Picture, PictureLog, Pictures
from blockenc.data.pixels import ImageFileError
from blockenc.errors import BlockencError
from blockenc.files import Folder, file_mode, folder_mode


class Unit(NamedTuple):
    """A file to do. source and target are relative to the folders of the job, with forward slashes."""

    source: str
    target: str
    format: str
    stamp: tuple[int, int]  # size and time of change of the source: what resuming compares
    expected: Item | None = None  # decryption: what the manifest says of the source
    verify: bool = False
    replace: bool = True  # whether a file that is there may be replaced by another one


class Result(NamedTuple):
    item: Item
    images: int
    pixels: int


@dataclasses.dataclass(frozen=True)
class Job:
    """What the units of a run have in common.

    ciphers: by channels. skip_damaged: go on when a file cannot be read. size: width and height to decrypt
    images to that no manifest lists; None: as large as they are.
    """

    decrypt: bool
    source: Path
    folder: Path
    temporary: Path
    ciphers: dict[int, Cipher]
    block_size: int
    fit: str
    skip_damaged: bool = False
    size: pixels.Size | None = None

    def cipher(self, channels: int, name: object) -> Cipher:
        try:
            return self.ciphers[channels]
        except KeyError:
            raise ValueError(
                f"{name}: this block size does not go with {channels} channels: too many values a block"
            ) from None


class Encrypting:
    """The change of encryption; notes a `Picture` of every image."""

    png = staticmethod(pixels.stored_png)

    def __init__(self, job: Job, name: object) -> None:
        self.job, self.name = job, name
        self.pictures, self.pixels = PictureLog(job.temporary), 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        if pixels.misfit((width, height), self.job.block_size, self.job.fit):
            raise pixels.misfit_error(self.name, (width, height), self.job.block_size, self.job.fit)
        fitted = pixels.fitted(images, self.job.block_size, self.job.fit)
        encrypted: np.ndarray = self.job.cipher(channels, self.name).encrypt(fitted)
        self.pictures.add([Picture(width, height, channels, pixels.digest(image)) for image in encrypted])
        self.pixels += len(images) * height * width
        return encrypted


class Decrypting:
    """The change of decryption; raises ImageFileError for an image that is not what is expected."""

    png = staticmethod(pixels.png)

    def __init__(self, job: Job, name: object, pictures: Pictures) -> None:
        self.job, self.name, self.pictures = job, name, pictures
        self._left, self.done, self.pixels = iter(pictures), 0, 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        expected = list(itertools.islice(self._left, len(images)))
        if len(expected) < len(images):
            raise self.altered(f"it holds more than {len(self.pictures)} images")
        for number, (image, picture) in enumerate(zip(images, expected), self.done):
            size = pixels.fitted_size(picture[:2], self.job.block_size, self.job.fit)
            shape = (size[1], size[0], picture.channels)
            if image.shape != shape or pixels.digest(image) != picture.sha256:
                raise self.altered(f"image {number} differs" if len(self.pictures) > 1 else "")
        self.done += len(images)
        if not expected:
            return images
        decrypted: np.ndarray = self.job.cipher(images.shape[3], self.name).decrypt(images)
        self.pixels += len(images) * expected[0].height * expected[0].width
        return decrypted[:, : expected[0].height, : expected[0].width]

    def finish(self) -> None:
        if self.done != len(self.pictures):
            raise self.altered(f"it holds {self.done} images of {len(self.pictures)}")

    def altered(self, how: str) -> ImageFileError:
        return ImageFileError(
            f"{self.name}: not {'the image' if len(self.pictures) == 1 else 'what'} that the manifest lists; "
            f"it was altered{how and f' ({how})'}"
        )


class DecryptingUnlisted:
    """The change of decryption where no manifest says what is expected."""

    png = staticmethod(pixels.png)

    def __init__(self, job: Job, name: object) -> None:
        self.job, self.name = job, name
        self.done, self.pixels = 0, 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        if pixels.misfit((width, height), self.job.block_size, "error"):
            raise pixels.misfit_error(self.name, (width, height), self.job.block_size, "error")
        right, bottom = self.job.size or (width, height)
        if right > width or bottom > height:
            raise too_small(self.name, (width, height), (right, bottom))
        decrypted: np.ndarray = self.job.cipher(channels, self.name).decrypt(images)
        self.done += len(images)
        self.pixels += len(images) * bottom * right
        return decrypted[:, :bottom, :right]


def too_small(name: object, size: pixels.Size, least: pixels.Size) -> ValueError:
    return ValueError(
        f"{name}: {size[0]} x {size[1]} pixels is less than the size {least[0]} x {least[1]} to decrypt to"
    )


def do(job: Job, unit: Unit) -> Result:
    """Make the output of a unit, put it in place, and tell what it is. What it raises names the file."""
    source, target = job.source / unit.source, job.folder / unit.target
    kind, place = BY_NAME[unit.format], Folder(job.folder)
    parent = PurePosixPath(unit.target).parent.as_posix()  # outputs are in the same folders as their sources
    try:
        place.make(parent, lambda name: folder_mode(job.source / name))
        with place.atomic_file(unit.target, within=job.temporary.name, mode=file_mode(source)) as file:
            change: Encrypting | Decrypting | DecryptingUnlisted
            if job.decrypt and unit.expected is None:
                change = DecryptingUnlisted(job, source)
                kind.rewrite(source, file, change)
                item = Item(unit.target, unit.source, kind.name, Pictures([]))
            elif unit.expected is None:
                change = Encrypting(job, source)
                kind.rewrite(source, file, change)
                item = Item(unit.target, unit.source, kind.name, change.pictures.finish())
            else:
                item = unit.expected
                change = Decrypting(job, source, item.images)
                kind.rewrite(source, file, change)
                change.finish()
            file.flush()
            written = Path(file.name)
            if unit.verify:
                _verify(job, kind, source, written, item)
            there = place.status(unit.target)  # raises for a link
            if not unit.replace and there and not _same_bytes(written, target):
                raise FileExistsError(17, "exists, and is not overwritten without --force", str(target))
    except OSError as error:
        if error.errno in (None, errno.ELOOP) or error.filename == str(source):
            raise
        # A temporary file's name means nothing to the user, and some errors carry no name at all.
        raise type(error)(error.errno, error.strerror or str(error), str(target)) from None
    images = change.done if isinstance(change, DecryptingUnlisted) else len(item.images)
    return Result(item, images, change.pixels)


def _verify(job: Job, kind: Format, source: Path, written: Path, item: Item) -> None:
    """Decrypt what was written and compare it, pixel by pixel, with the source."""
    change = Decrypting(job, written, item.images)

    def restored() -> Iterator[np.ndarray]:
        for batch in kind.images(written):
            yield from change(batch)

    def originals() -> Iterator[np.ndarray]:
        for batch in kind.images(source):
            if job.fit == "crop":  # what was cut off does not come back
                batch = pixels.fitted(batch, job.block_size, "crop")
            yield from batch

    try:
        for number, (want, got) in enumerate(zip(originals(), restored(), strict=True)):
            if job.fit == "crop":
                got = got[: want.shape[0], : want.shape[1]]
            if not np.array_equal(want, got):
                raise BlockencError(f"{source}: verification failed: image {number} does not come back")
        change.finish()
    except (ImageFileError, ValueError) as error:
        raise BlockencError(f"{source}: verification failed: {error}") from None


def _same_bytes(a: Path, b: Path) -> bool:
    if a.stat().st_size != b.stat().st_size:
        return False
    with open(a, "rb") as first, open(b, "rb") as second:
        while block := first.read(1 << 20):
            if block != second.read(1 << 20):
                return False
    return True
