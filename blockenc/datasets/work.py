"""One unit of work: a file of SRC to a file of DST. All a worker runs and all it is sent, without the key."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from blockenc.cipher import Cipher
from blockenc.datasets import pictures, pixels
from blockenc.datasets.formats import BY_NAME, Format
from blockenc.datasets.manifest import Item, Picture, PictureLog, Pictures, image_id
from blockenc.datasets.pictures import Encoded, Stored
from blockenc.datasets.pixels import ImageFileError, Source
from blockenc.datasets.reading import DEFAULT, Reading
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
    """metadata: pictures whose EXIF, colour profile or the like was left out."""

    item: Item
    images: int
    pixels: int
    metadata: int = 0


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
    reading: Reading = DEFAULT
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
    """The change of encryption; notes a `Picture` of every image, and what is copied as it is.

    file: the source's path below SRC. kind: the name of its format.
    """

    def __init__(self, job: Job, name: object, file: str, kind: str) -> None:
        self.job, self.name, self.reading = job, name, job.reading.at(file)
        self._kind, self._done = kind, 0
        self.pictures, self.pixels, self.metadata = PictureLog(job.temporary), 0, 0
        self.copied: list[str] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        encrypted = self.transform(images, self.name)
        self.pictures.add([Picture(width, height, channels, pixels.digest(image)) for image in encrypted])
        self._done += len(images)
        self.pixels += len(images) * height * width
        return encrypted

    def picture(self, source: Source, name: object) -> bytes:
        stored = pictures.read(source, name, self.reading)
        height, width = stored.colours.shape[:2]
        image = stored.map(lambda array: self.transform(array[None], name)[0]).array
        mode, palette = stored.mode, ""
        if (mode, image.shape[2]) in (("L", 1), ("RGB", 3)) or (mode == "RGBA" and stored.beside is None):
            mode = ""
        if stored.palette is not None:
            palette = pictures.pack_palette(stored.palette, self._padded)
        data = self.reading.coding.encode(image)
        digest = self.reading.coding.digest(data, image)
        self.pictures.add([Picture(width, height, image.shape[2], digest, mode, stored.orientation, palette)])
        self._done += 1
        self.pixels += height * width
        self.metadata += stored.metadata
        return data

    def copies(self, member: str) -> bool:
        if found := self.reading.copies(member):
            self.copied.append(member)
        return found

    def transform(self, images: np.ndarray, name: object) -> np.ndarray:
        """Images [N, H, W, C] made to fit and encrypted."""
        height, width = images.shape[1:3]
        if pixels.misfit((width, height), self.job.block_size, self.job.fit):
            raise pixels.misfit_error(name, (width, height), self.job.block_size, self.job.fit)
        return self._encrypted(pixels.fitted(images, self.job.block_size, self.job.fit), name)

    def _padded(self, array: np.ndarray) -> np.ndarray:
        fitted = pixels.fitted(array[None], self.job.block_size, "pad")
        encrypted: np.ndarray = self._encrypted(fitted, self.name)[0]
        return encrypted

    def _encrypted(self, images: np.ndarray, name: object) -> np.ndarray:
        cipher = self.job.cipher(images.shape[3], name)
        numbers = range(self._done, self._done + len(images))
        ids = [image_id(self.reading.file, self._kind, n) for n in numbers] if cipher.per_image else None
        encrypted: np.ndarray = cipher.encrypt(images, ids=ids)
        return encrypted


class Decrypting:
    """The change of decryption; raises ImageFileError for an image that is not what is expected."""

    def __init__(self, job: Job, name: object, item: Item) -> None:
        self.job, self.name, self.item, self.pictures = job, name, item, item.images
        self.reading = job.reading.of_output(item.copied)
        self._left, self.done, self.pixels = iter(item.images), 0, 0
        self.metadata = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        expected = self._expected(images, map(pixels.digest, images))
        if not expected:
            return images
        first = expected[0]
        if first.mode:
            raise self.altered("arrays in the place of picture files")
        return self._decrypted(images, first)

    def picture(self, source: Source, name: object) -> bytes:
        return self.stored(source, name).png()

    def stored(self, source: Source, name: object) -> Stored:
        """The decrypted picture of a file."""
        image = pictures.read_encrypted(source, name, self.reading)
        (picture,) = self._expected(image[None], [self.reading.coding.digest(source, image)])
        if picture.mode in pictures.BESIDE:
            colours, beside = (
                self._decrypted(part[None], picture)[0] for part in (image[..., :3], image[..., 3:])
            )
        else:
            colours, beside = self._decrypted(image[None], picture)[0], None
        mode = picture.mode or {1: "L", 3: "RGB", 4: "RGBA"}[picture.channels]
        return Stored(mode, colours, beside, self._palette(picture), picture.orientation)

    def copies(self, member: str) -> bool:
        return self.reading.copies(member)

    def _expected(self, images: np.ndarray, digests: Iterable[str]) -> list[Picture]:
        """What the manifest lists for these images, which are as it says."""
        expected = list(itertools.islice(self._left, len(images)))
        if len(expected) < len(images):
            raise self.altered(f"it holds more than {len(self.pictures)} images")
        for number, (image, found, picture) in enumerate(zip(images, digests, expected), self.done):
            size = pixels.fitted_size(picture[:2], self.job.block_size, self.job.fit)
            shape = (size[1], size[0], picture.channels)
            if image.shape != shape or found != picture.sha256:
                raise self.altered(f"image {number} differs" if len(self.pictures) > 1 else "")
        self.done += len(images)
        if expected:
            self.pixels += len(images) * expected[0].height * expected[0].width
        return expected

    def _decrypted(self, images: np.ndarray, picture: Picture) -> np.ndarray:
        return self._of_any_size(images)[:, : picture.height, : picture.width]

    def _of_any_size(self, images: np.ndarray) -> np.ndarray:
        """The last images that were `_expected`, or what goes with the last one, decrypted."""
        cipher = self.job.cipher(images.shape[3], self.name)
        numbers = range(self.done - len(images), self.done)
        ids = [self.item.image_id(n) for n in numbers] if cipher.per_image else None
        decrypted: np.ndarray = cipher.decrypt(images, ids=ids)
        return decrypted

    def _palette(self, picture: Picture) -> np.ndarray | None:
        if not picture.palette:
            return None
        height, width = pictures.PALETTE
        size = pixels.fitted_size((width, height), self.job.block_size, "pad")
        try:
            return pictures.unpack_palette(
                picture.palette, size, lambda array: self._of_any_size(array[None])[0]
            )
        except ValueError as error:
            raise ImageFileError(f"{self.name}: its palette in the manifest is damaged ({error})") from None

    def finish(self) -> None:
        if self.done != len(self.pictures):
            raise self.altered(f"it holds {self.done} images of {len(self.pictures)}")

    def altered(self, how: str) -> ImageFileError:
        return ImageFileError(
            f"{self.name}: not {'the image' if len(self.pictures) == 1 else 'what'} that the manifest lists; "
            f"it was altered{how and f' ({how})'}"
        )


class DecryptingUnlisted:
    """The change of decryption where no manifest says what is expected.

    In mode "rgb" a picture of four channels has three that were encrypted as one, and one beside them.
    """

    def __init__(self, job: Job, name: object) -> None:
        self.job, self.name, self.reading = job, name, job.reading
        self.done, self.pixels, self.metadata = 0, 0, 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self._count(images)
        return self._decrypted(images)

    def picture(self, source: Source, name: object) -> bytes:
        image = pictures.read_encrypted(source, name, self.reading)
        self._count(image[None])
        parts = [image]
        if image.shape[2] == 4 and self.reading.mode == "rgb":
            parts = [image[..., :3], image[..., 3:]]
        colours, *beside = (self._decrypted(part[None])[0] for part in parts)
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[image.shape[2]]
        return Stored(mode, colours, beside[0] if beside else None, None, 1).png()

    def copies(self, member: str) -> bool:
        return self.reading.copies(member)

    def _count(self, images: np.ndarray) -> None:
        height, width = images.shape[1:3]
        if pixels.misfit((width, height), self.job.block_size, "error"):
            raise pixels.misfit_error(self.name, (width, height), self.job.block_size, "error")
        right, bottom = self.job.size or (width, height)
        if right > width or bottom > height:
            raise too_small(self.name, (width, height), (right, bottom))
        self.done += len(images)
        self.pixels += len(images) * bottom * right

    def _decrypted(self, images: np.ndarray) -> np.ndarray:
        right, bottom = self.job.size or (images.shape[2], images.shape[1])
        decrypted: np.ndarray = self.job.cipher(images.shape[3], self.name).decrypt(images)
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
                change = Encrypting(job, source, unit.source, kind.name)
                kind.rewrite(source, file, change)
                images, copied = change.pictures.finish(), tuple(change.copied)
                item = Item(unit.target, unit.source, kind.name, images, copied)
            else:
                item = unit.expected
                change = Decrypting(job, source, item)
                kind.rewrite(source, file, change)
                change.finish()
            file.flush()
            written = Path(file.name)
            if unit.verify:
                _verify(job, kind, source, unit.source, written, item)
            there = place.status(unit.target)  # raises for a link
            if not unit.replace and there and not _same_bytes(written, target):
                raise FileExistsError(17, "exists, and is not overwritten without --force", str(target))
    except OSError as error:
        if error.errno in (None, errno.ELOOP) or error.filename == str(source):
            raise
        # A temporary file's name means nothing to the user, and some errors carry no name at all.
        raise type(error)(error.errno, error.strerror or str(error), str(target)) from None
    count = change.done if isinstance(change, DecryptingUnlisted) else len(item.images)
    return Result(item, count, change.pixels, change.metadata)


def _verify(job: Job, kind: Format, source: Path, name: str, written: Path, item: Item) -> None:
    """Decrypt what was written and compare it with what is stored in the source, to the pixel."""
    change = Decrypting(job, written, item)
    cropped = job.fit == "crop"  # what was cut off does not come back
    reading = job.reading.at(name)

    def cut(images: np.ndarray) -> np.ndarray:
        return pixels.fitted(images, job.block_size, "crop") if cropped else images

    def restored() -> Iterator[np.ndarray | bytes]:
        for batch in kind.images(written, change.reading):
            if isinstance(batch, Encoded):
                yield change.picture(batch.source, batch.name)
            else:
                yield from cut(change(batch))

    def originals() -> Iterator[np.ndarray | Encoded]:
        for batch in kind.images(source, reading):
            if isinstance(batch, Encoded):
                yield batch
            else:
                yield from cut(batch)

    def same(want: np.ndarray | Encoded, got: np.ndarray | bytes) -> bool:
        if isinstance(want, Encoded) and isinstance(got, bytes):
            part = (lambda array: cut(array[None])[0]) if cropped else None
            return pictures.same(want.source, want.name, reading, got, part)
        return isinstance(got, np.ndarray) and np.array_equal(want, got)  # type: ignore[arg-type]

    try:
        for number, (want, got) in enumerate(zip(originals(), restored(), strict=True)):
            if not same(want, got):
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
