"""Targets that read files of data sets: each is read and written again, as a run without a cipher would.

A format refuses a file with an ImageFileError that names it, and with nothing else. What it accepts, it
writes so that its own reader finds the same pictures.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from blockenc.datasets import pictures
from blockenc.datasets.formats import Format, format_of, plain_pickle
from blockenc.datasets.pixels import ImageFileError
from blockenc.datasets.reading import Reading

MAX_BYTES = 1 << 22  # of one picture or row
PNG = b"\x89PNG\r\n\x1a\n"
TAR_BLOCK, TAR_SIZE, TAR_SUM = 512, slice(124, 136), slice(148, 156)


class Unchanged:
    """A change that reads every picture and leaves it."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images

    def picture(self, source: bytes, name: object) -> bytes:
        return pictures.read(source, name, self.reading).png()

    def copies(self, member: str) -> bool:
        return False


def read(data: bytes, name: str, folder: Path, *neighbours: str) -> None:
    """A file of that name, alone in a folder but for empty neighbours."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for neighbour in neighbours:
        (folder / neighbour).touch()
    path, choice = folder / name, zlib.crc32(data)
    path.write_bytes(with_checksums(data) if choice & 1 else data)
    reading = Reading(mode="keep" if choice & 2 else "rgb", convert=bool(choice & 4), max_bytes=MAX_BYTES)
    try:
        kind = format_of(path, reading)
        if kind is None:
            raise ImageFileError(f"{path}: of no format")
        kind.sizes(path, reading)
        written = io.BytesIO()
        kind.rewrite(path, written, Unchanged(reading))
    except ImageFileError as error:
        if name not in str(error):
            raise AssertionError(f"an error that does not name the file: {error}") from error
        raise
    except (ValueError, TypeError) as error:
        raise AssertionError(f"refused with a {type(error).__name__}: {error}") from error
    try:
        before = found(kind, path, reading)  # at once: the output may have the name of the file
        output = folder / kind.target(name, reading)
        output.write_bytes(written.getvalue())
        after = found(kind, output, reading.of_output())
    except ImageFileError as error:
        raise AssertionError(f"its output is refused: {error}") from error
    assert after == before, "its output has other pictures"


def found(kind: Format, path: Path, reading: Reading) -> tuple[int, bytes]:
    """How many picture files a file has, and the pixels of its arrays."""
    parts = list(kind.images(path, reading))
    arrays = [part.tobytes() for part in parts if isinstance(part, np.ndarray)]
    return len(parts) - len(arrays), b"".join(arrays)


def with_checksums(data: bytes) -> bytes:
    """With those of a tar's headers, or of a PNG's chunks, set right, so that changed ones are read."""
    changed = bytearray(data)
    if data.startswith(PNG):
        start = len(PNG)
        while start + 12 <= len(changed):
            end = start + 8 + int.from_bytes(changed[start : start + 4], "big")
            changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[start + 4 : end]))
            start = end + 4
    elif data[257:262] == b"ustar":
        start = 0
        while len(header := changed[start : start + TAR_BLOCK]) == TAR_BLOCK and any(header):
            header[TAR_SUM] = b" " * 8
            header[TAR_SUM] = b"%06o\0 " % sum(header)
            changed[start : start + TAR_BLOCK] = header
            digits = bytes(header[TAR_SIZE]).strip(b"\0 ")
            size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
            start += TAR_BLOCK * (1 + -(-size // TAR_BLOCK))
    return bytes(changed)


def image_file(data: bytes, folder: Path) -> None:
    """A picture file of any kind; its bytes tell which."""
    read(data, "a.png", folder)


def tar_file(data: bytes, folder: Path) -> None:
    """A shard; its bytes tell how it is compressed."""
    read(data, "a.tar", folder)


def numpy_file(data: bytes, folder: Path) -> None:
    """An array, or an archive of them."""
    read(data, "a.npz" if data[:1] == b"P" else "a.npy", folder)


def table_file(data: bytes, folder: Path) -> None:
    """A table of Parquet or Arrow."""
    read(data, "a.parquet" if data[:1] == b"P" else "a.arrow", folder)


def idx_file(data: bytes, folder: Path) -> None:
    """A file of MNIST."""
    read(data, "a-idx3-ubyte" + ".gz" * data.startswith(b"\x1f\x8b"), folder)


def cifar_file(data: bytes, folder: Path) -> None:
    """A batch of CIFAR."""
    read(data, "data_batch_1", folder)


def metadata_file(data: bytes, folder: Path) -> None:
    """What lies beside data sets: a pickle of CIFAR, or JSON."""
    read(data, "batches.meta" if data[:1] == b"\x80" else "state.json", folder, "data_batch_1", "a.arrow")


def pickled(data: bytes, folder: Path) -> None:
    """A pickle of plain data, which is written so that it is read as the same."""
    held = plain_pickle.load(data)
    if isinstance(held, dict):
        written = io.BytesIO()
        plain_pickle.dump(held, written)
        again = io.BytesIO()
        plain_pickle.dump(plain_pickle.load(written.getvalue()), again)
        assert again.getvalue() == written.getvalue()


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    target.__name__: target
    for target in (
        image_file,
        tar_file,
        numpy_file,
        table_file,
        idx_file,
        cifar_file,
        metadata_file,
        pickled,
    )
}


def in_folder(folder: Callable[[], Path]) -> dict[str, Callable[[bytes], None]]:
    """The targets, whose files then lie in that folder."""

    def run(target: Callable[[bytes, Path], None], data: bytes) -> None:
        target(data, folder() / "data")

    return {name: functools.partial(run, target) for name, target in TARGETS.items()}


def make_seeds() -> dict[str, list[bytes]]:
    """Small, well-formed files of every kind."""
    draw = np.random.default_rng(0)
    photo = draw.integers(0, 256, (4, 8, 3), np.uint8)

    def saved(write: Callable[[io.BytesIO], object]) -> bytes:
        file = io.BytesIO()
        write(file)
        return file.getvalue()

    def image(kind: str, mode: str = "RGB", **options: object) -> bytes:
        return saved(lambda file: Image.fromarray(photo).convert(mode).save(file, kind, **options))

    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    images = [image("PNG", mode) for mode in ("RGB", "RGBA", "P", "1", "LA")]
    images += [image("JPEG", exif=exif), image("BMP"), image("WEBP"), image("TIFF"), image("PPM")]
    images += [image("TIFF", "L", compression="tiff_lzw")]

    def shard(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as out:
            for name, data in (("a.png", images[0]), ("a.cls", b"1"), ("long-" * 30 + ".txt", b"a cat")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))

    whole = saved(shard).rstrip(b"\0")
    whole += bytes(-len(whole) % TAR_BLOCK + 2 * TAR_BLOCK)  # and no more, which tarfile adds
    grey = draw.integers(0, 256, (2, 8, 8), np.uint8)
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [3], b"filenames": [b"a.png"]}
    meta = {b"label_names": [b"cat", b"dog"], b"num_vis": 3072}
    plain = {"a": [1, -2.5, None, True], "b": ("c", b"d"), "e": {"f": np.arange(3), "g": 1 << 70}}
    state = {"_data_files": [{"filename": "a.arrow"}], "_fingerprint": "ab12", "_split": "train"}
    return {
        "image_file": images,
        "tar_file": [whole, gzip.compress(whole)],
        "numpy_file": [
            saved(lambda file: np.save(file, grey)),
            saved(lambda file: np.save(file, np.arange(3.0))),
            saved(lambda file: np.savez(file, x=grey, y=np.arange(2))),
            saved(lambda file: np.savez_compressed(file, x=grey)),
        ],
        "table_file": _tables(images[0]),
        "idx_file": [
            struct.pack(">2x2B3I", 8, 3, *grey.shape) + grey.tobytes(),
            struct.pack(">2x2BI", 8, 1, 5) + bytes(5),
            gzip.compress(struct.pack(">2x2B3I", 8, 3, *grey.shape) + grey.tobytes()),
        ],
        "cifar_file": [pickle.dumps(batch, protocol) for protocol in (2, 4)],
        "metadata_file": [pickle.dumps(meta, 2), json.dumps(state).encode()],
        "pickled": [pickle.dumps(plain, protocol) for protocol in (2, 3, 4)],
    }


def _tables(picture: bytes) -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([{"bytes": picture, "path": "x.png"}, None], kind),
            "label": pa.array([1, 2]),
            "box": pa.array([[1.0, 2.0], None]),
            "text": pa.array(["a", "b"]).dictionary_encode(),
        }
    )
    stream, file, packed = (io.BytesIO() for _ in range(3))
    with pa.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table)
    with pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    parquet.write_table(table, packed)
    return [stream.getvalue(), file.getvalue(), packed.getvalue()]
