"""Formats of data sets: files are hostile, and what may be a picture does not leave unencrypted."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blockenc
from blockenc.datasets import pictures, units
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.formats import format_of, plain_pickle, suspicion
from blockenc.datasets.manifest import read_folder
from blockenc.datasets.pixels import ImageFileError, RefusedError
from blockenc.datasets.reading import Reading
from tests import oracle

KEY = blockenc.Key(oracle.KEY)
SCHEME = blockenc.Scheme(channels=1)
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


PHOTOS = noise(8, 32, 32, 3)
PHOTO = PHOTOS[3]


def png(pixels: np.ndarray = PHOTO) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=0)
    return data.getvalue()


def encrypted(tmp_path: Path, make: Callable[[Path], object], **reading) -> Path:
    """The folder that a data set, made by `make` in an empty one, is encrypted into."""
    (tmp_path / "src").mkdir(exist_ok=True)
    make(tmp_path / "src")
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, reading=Reading(**reading), verify="all")
    return tmp_path / "enc"


def refused(tmp_path: Path, make: Callable[[Path], object], says: str, **reading) -> None:
    with pytest.raises(ImageFileError, match=says):
        encrypted(tmp_path, make, **reading)
    assert not (tmp_path / "enc").exists()


# --- what may be a picture ---

FLAT = PHOTO.ravel()
SUSPICIOUS: dict[str, object] = {
    "base64": base64.b64encode(FLAT).decode(),
    "base64 in lines": base64.encodebytes(FLAT).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(FLAT).decode(),
    "base85": base64.b85encode(FLAT).decode(),
    "hexadecimal": FLAT.tobytes().hex(),
    "Latin-1": FLAT.tobytes().decode("latin-1"),
    "UTF-16": FLAT.tobytes().decode("utf-16-le", "replace"),
    "data URI": "see data:image/png;base64,iVBORw0KGgo=",
    "SVG": "<?xml version='1.0'?>\n<svg width='3'></svg>",
    "numbers": " ".join(map(str, FLAT)),
    "numbers, one a line": "\n".join(map(str, FLAT)),
    "numbers, in lines": "\n".join(",".join(map(str, row)) for row in PHOTO[:, :, 0]),
    "JSON": json.dumps({"a": [{"pixels": PHOTO.tolist()}]}).encode(),
    "JSON lines": b'{"a": 1}\n' + json.dumps({"x": FLAT.tolist()}).encode(),
    "JSON with a name twice": b'{"x": %s, "x": 1}' % json.dumps(FLAT.tolist()).encode(),
    "broken JSON": b"[" + json.dumps(FLAT.tolist()).encode(),
    "PGM as text": b"P2 3 3 255 1 2 3 4 5 6 7 8 9",
    "GIF": b"GIF89a",
    "bytes": FLAT.tobytes(),
    "list": FLAT.tolist(),
    "list with a hole": [None, *FLAT.tolist()],
    "list of texts": [str(n) for n in FLAT],
    "pixels RGBA": FLAT.reshape(-1, 4).tolist(),
    "rows of several lengths": [FLAT[:50].tolist(), FLAT[:40].tolist()],
    "dict of pixels": {f"p{n}": int(v) for n, v in enumerate(FLAT)},
    "pixels in long integers": [int(n) for n in FLAT.view("u8")[:20]],
    "pixels in floats": FLAT.view("f8")[:20].tolist(),
    "a digit of 8 x 8": RNG.integers(0, 16, 64).tolist(),
    "an embedding": RNG.normal(size=512).tolist(),
    "an unknown object": object(),
}
HARMLESS: dict[str, object] = {
    "a caption": "A cat sits on the mat, and 3 dogs look at it. " * 20,
    "Chinese": "".join(chr(0x4E00 + 7 * n) for n in range(700)),
    "Persian with joiners": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 " * 40,
    "an address": "https://example.com/" + "a-long-slug/" * 20,
    "a path": "/data/" + "abcdef_0123/" * 20,
    "a digest": "ab" * 64,
    "one-hot": [0] * 999 + [1],
    "smoothed": [0.0001] * 999 + [0.9],
    "several hot": ([0.0] * 99 + [1.0]) * 5,
    "boxes": [[1.0, 2.0, 3.0, 4.0]] * 20,
    "boxes of integers": [[100, 200, 300, 400 + n] for n in range(20)],
    "many boxes": [[float(n), n + 1.5, n + 700.5, n + 3.0] for n in range(100)],
    "points": [[1.5, 2.5]] * 60,
    "JSON": b'{"a": [1, 2, 3], "b": "text", "c": {"d": null}}',
    "a few bytes": b"\0\xff\x01",
    "63 numbers": FLAT[:63].tolist(),
    "indices": list(range(1000)),
    "names that are numbers": sorted(map(str, range(150))),
    "a word that begins as a file does": b"FORMAT and RIFF are words, P2 is a road, and BM is nothing. " * 2,
}


@pytest.mark.parametrize("what", SUSPICIOUS)
def test_suspicion(what: str) -> None:
    assert suspicion.plain(SUSPICIOUS[what])


@pytest.mark.parametrize("what", HARMLESS)
def test_no_suspicion(what: str) -> None:
    assert suspicion.plain(HARMLESS[what]) is None


# --- arrays ---

STRUCTURED = np.zeros(8, [("image", "u1", (32, 32, 3)), ("label", "i4")])
STRUCTURED["image"] = PHOTOS
ROWS = PHOTOS.reshape(8, -1)
BAD_ARRAYS = {
    "structured": STRUCTURED,
    "flat": PHOTOS.ravel(),
    "flat, packed": PHOTOS.reshape(-1).view("u8"),
    "flat, as floats": PHOTOS.reshape(-1).view("f4"),
    "flat, as dates": PHOTOS.reshape(-1).view("M8[ns]"),
    "flat, complex": PHOTOS.reshape(-1).view("c16"),
    "flat, as letters": PHOTOS.reshape(-1).view("S1"),
    "void": np.ascontiguousarray(ROWS).view("V3072").ravel(),
    "bytes": np.array([png()] * 8),
    "texts": np.array([base64.b64encode(png()).decode()] * 8),
    "rows": ROWS,
    "narrow": PHOTOS.reshape(-1, 48),
    "pixels": PHOTOS.reshape(-1, 3),
    "signed": ROWS.view(np.int8),
    "booleans": ROWS > 127,
    "halves": (ROWS / 255).astype(np.float16),
    "volumes": noise(8, 2, 32, 32, 3),
    "scaled": (PHOTOS / 255).astype(np.float32),
    "blank and scaled": np.zeros((8, 32, 32, 3)),
    "5 channels": noise(8, 32, 32, 5),
}


@pytest.mark.parametrize("beside", (False, True))
@pytest.mark.parametrize("file", ("a.npy", "a.npz"))
@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_arrays_that_may_be_pictures(tmp_path: Path, kind: str, file: str, beside: bool) -> None:
    """Also beside pictures, as many as its rows."""

    def make(src: Path) -> None:
        array, pictures = BAD_ARRAYS[kind], noise(8, 8, 8)
        if file == "a.npz":
            np.savez(src / file, x=array, **({"pictures": pictures} if beside else {}))
        else:
            np.save(src / file, array)
            if beside:
                np.save(src / "pictures.npy", pictures)

    refused(tmp_path, make, r"a\.np[yz](, x)?: .*")


@pytest.mark.parametrize("file", ("npy", "npz"))
def test_arrays_that_belong_to_pictures(tmp_path: Path, file: str) -> None:
    """A row for each picture: labels, boxes, scores, texts. They come out as they went in."""
    count = 100
    arrays = {
        "pictures": noise(count, 8, 8),
        "labels": RNG.integers(0, 1000, count),
        "onehot": np.eye(count, 1000, dtype=np.float32),
        "boxes": RNG.normal(size=(count, 4)) * 300,
        "points": RNG.normal(size=(count, 17, 3)),
        "scores": RNG.normal(size=count),
        "days": np.arange(count).astype("M8[D]"),
        "names": np.array([f"photo number {n}.png" for n in range(count)]),
        "record": np.zeros(count, [("x", "f4"), ("label", "i4")]),
        "mean": RNG.normal(size=3),
        "number": np.int64(3),
    }

    def make(src: Path) -> None:
        if file == "npz":
            np.savez_compressed(src / "a.npz", **arrays)
        else:
            for name, array in arrays.items():
                np.save(src / f"{name}.npy", array)

    enc = encrypted(tmp_path, make)
    decrypt_files(enc, tmp_path / "dec", KEY)
    for folder, photos in (
        (enc, blockenc.encrypt(arrays["pictures"][..., None], KEY)[..., 0]),
        (tmp_path / "dec", arrays["pictures"]),
    ):
        found = (
            np.load(folder / "a.npz") if file == "npz" else {n: np.load(folder / f"{n}.npy") for n in arrays}
        )
        for name, array in {**arrays, "pictures": photos}.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_names_of_members_stay(tmp_path: Path) -> None:
    """In folders and files whose names hold what separates names in errors."""
    (tmp_path / "src").mkdir()

    def make(src: Path) -> None:
        (src / "a, b").mkdir()
        np.savez(src / "a, b/c, d.npz", **{"x, y": noise(5, 8, 8), "z": np.arange(5)})

    enc = encrypted(tmp_path, make)
    assert set(np.load(enc / "a, b/c, d.npz")) == {"x, y", "z"}


@pytest.mark.parametrize("channels", (3, 4))
def test_one_picture_in_an_array(tmp_path: Path, channels: int) -> None:
    """[H, W, 3] or [H, W, 4] in an .npy file of its own, as large as it is padded to."""
    photo = noise(18, 12, channels)
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src/a.npy", photo)
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, fit="pad", verify="all")
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    padded = np.pad(photo, ((0, 2), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(np.load(tmp_path / "enc/a.npy"), blockenc.encrypt(padded, KEY))
    np.testing.assert_array_equal(np.load(tmp_path / "dec/a.npy"), photo)


def test_one_picture_that_is_cropped_to_few_lines(tmp_path: Path) -> None:
    photo = noise(9, 10, 3)
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src/a.npy", photo)
    scheme = blockenc.Scheme(5, channels=1)
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, scheme, fit="crop", verify="all")
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    np.testing.assert_array_equal(np.load(tmp_path / "dec/a.npy"), photo[:5])


@pytest.mark.parametrize("shape", [(4, 28, 3), (3, 28, 28), (7, 28, 3), (4, 28, 28), (28, 28, 1), (0, 28, 3)])
def test_arrays_of_which_the_channels_cannot_be_told(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Or, for fewer than 8 lines, could not once it is encrypted."""
    refused(tmp_path, lambda src: np.save(src / "a.npy", noise(*shape)), "a.npy: .*cannot tell the channels")


def test_one_picture_beside_others_in_an_archive_is_refused(tmp_path: Path) -> None:
    """It may be a row for each of them."""
    refused(
        tmp_path,
        lambda src: np.savez(src / "a.npz", x=noise(9, 8, 8), y=noise(9, 8, 3)),
        "a.npz, y: .*cannot",
    )


def test_a_large_picture_in_an_array_is_bounded(tmp_path: Path) -> None:
    refused(
        tmp_path,
        lambda src: np.save(src / "a.npy", noise(64, 64, 3)),
        "a.npy: .*--max-memory",
        max_bytes=8000,
    )


# --- tables ---


def table(path: Path, **columns: object) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    made = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(made, path)
    else:
        with pa.ipc.new_stream(str(path), made.schema) as out:
            out.write_table(made)


def images(pa) -> object:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": png(photo), "path": "x.jpg"} for photo in PHOTOS], kind)


BAD_COLUMNS: dict[str, Callable] = {
    "dictionary": lambda pa: pa.array([png()] * 8).dictionary_encode(),
    "dictionary of texts": lambda pa: pa.array([base64.b64encode(png()).decode()] * 8).dictionary_encode(),
    "map": lambda pa: pa.array([[("k", png())]] * 8, pa.map_(pa.string(), pa.binary())),
    "list of binary": lambda pa: pa.array([[png()]] * 8),
    "list of pictures": lambda pa: pa.array([[{"bytes": b"", "path": ""}]] * 8),
    "binary": lambda pa: pa.array([FLAT.tobytes()] * 8),
    "large binary": lambda pa: pa.array([FLAT.tobytes()] * 8, pa.large_binary()),
    "fixed-size binary": lambda pa: pa.array([FLAT.tobytes()] * 8, pa.binary(3072)),
    "fixed-size pictures": lambda pa: pa.array([png()] * 8, pa.binary(len(png()))),
    "text": lambda pa: pa.array([base64.b64encode(FLAT).decode()] * 8),
    "large text": lambda pa: pa.array([base64.b64encode(FLAT).decode()] * 8, pa.large_string()),
    "text view": lambda pa: pa.array([base64.b64encode(FLAT).decode()] * 8, pa.string_view()),
    "pixels as text": lambda pa: pa.array([" ".join(map(str, FLAT))] * 8),
    **{
        f"list of {name}": lambda pa, name=name: pa.array(
            [(FLAT // 2).tolist()] * 8, pa.list_(getattr(pa, name)())
        )
        for name in ("uint8", "int8", "int64", "float32")
    },
    "large list": lambda pa: pa.array([FLAT.tolist()] * 8, pa.large_list(pa.int16())),
    "fixed-size list": lambda pa: pa.array([FLAT.tolist()] * 8, pa.list_(pa.uint8(), 3072)),
    "list view": lambda pa: pa.array([FLAT.tolist()] * 8, pa.list_view(pa.uint8())),
    "nested lists": lambda pa: pa.array([PHOTO.tolist()] * 8),
    "struct": lambda pa: pa.array([{"a": {"b": FLAT.tolist()}}] * 8),
    "tensors": lambda pa: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(PHOTOS)),
    "run ends": lambda pa: pa.RunEndEncodedArray.from_arrays([8], pa.array([png()])),
    "union": lambda pa: pa.UnionArray.from_sparse(pa.array([0] * 8, pa.int8()), [pa.array([png()] * 8)]),
}


@pytest.mark.parametrize("file", ("a.parquet", "a.arrow"))
@pytest.mark.parametrize("kind", BAD_COLUMNS)
def test_columns_that_may_be_pictures(tmp_path: Path, kind: str, file: str) -> None:
    pa = pytest.importorskip("pyarrow")
    column = BAD_COLUMNS[kind](pa)
    try:
        table(tmp_path / file, x=column)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        pytest.skip("this format does not have the type")
    refused(tmp_path, lambda src: table(src / file, image=images(pa), x=column), f"{file}.* column x")


@pytest.mark.parametrize("file", ("a.parquet", "a.arrow"))
def test_columns_beside_pictures(tmp_path: Path, file: str) -> None:
    """Labels, boxes, texts, one-hot labels and the like are copied."""
    pa = pytest.importorskip("pyarrow")
    columns = {
        "label": pa.array(range(8)),
        "boxes": pa.array(
            [[[1.0, 2.0, 3.0, 4.0]] * n for n in range(8)], pa.list_(pa.list_(pa.float32(), 4))
        ),
        "onehot": pa.array(np.eye(8, 1000).tolist()),
        "caption": pa.array(["a cat"] * 7 + [None]),
        "class": pa.array(["cat", "dog"] * 4).dictionary_encode(),
        "tags": pa.array([["a", "b"]] * 8),
        "uuid": pa.array([bytes(range(16))] * 8, pa.binary(16)),
        "identifier": pa.array([b"\0\1"] * 8),
        "when": pa.array([0] * 8, pa.timestamp("us")),
        "more": pa.array([{"a": 1, "b": [1, 2]}] * 8),
        "nothing": pa.nulls(8),
    }
    enc = encrypted(tmp_path, lambda src: table(src / file, image=images(pa), **columns))
    decrypt_files(enc, tmp_path / "dec", KEY)
    for folder in (enc, tmp_path / "dec"):
        if file == "a.arrow":
            found = pa.ipc.open_stream(folder / file).read_all()
        else:
            from pyarrow import parquet

            found = parquet.read_table(folder / file)
        for name, column in columns.items():
            assert found[name].to_pylist() == column.to_pylist()
            assert found[name].type == column.type
    with Image.open(io.BytesIO(found["image"].to_pylist()[3]["bytes"])) as image:
        np.testing.assert_array_equal(np.asarray(image), PHOTO)


def wide(src: Path) -> None:
    table(src / "a.parquet", **{f"p{n}": PHOTOS.reshape(8, -1)[:, n] for n in range(784)}, label=["a"] * 8)


def narrow(src: Path) -> None:
    table(src / "a.parquet", **{f"p{n}": PHOTOS.reshape(-1, 32)[:, n] for n in range(32)})


def lone_lists(src: Path) -> None:
    table(src / "a.parquet", x=PHOTOS.reshape(-1, 32).tolist())


def twice(src: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_arrays([images(pa)] * 2, names=["image", "image"]), src / "a.parquet")


def of_schema(src: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    made = pa.table({"image": images(pa)}).replace_schema_metadata({"thumbnail": png()})
    parquet.write_table(made, src / "a.parquet")


def of_field(src: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    made = pa.table([images(pa)], pa.schema([pa.field("image", images(pa).type, metadata={"x": png()})]))
    with pa.ipc.new_stream(str(src / "a.arrow"), made.schema) as out:
        out.write_table(made)


LINES = PHOTO[:, :, 0]


@pytest.mark.parametrize("file", ("a.parquet", "a.arrow"))
@pytest.mark.parametrize(
    "columns, says",
    [
        ({f"x{n}": [LINES[n].tolist()] * 8 for n in range(32)}, "32 columns of list"),
        ({"x": [{f"l{n}": LINES[n].tolist() for n in range(32)}] * 8}, "1024 numbers in lists"),
        (
            {f"x{k}": [{f"p{n}": int(LINES[k, n]) for n in range(32)}] * 8 for k in range(4)},
            "128 columns of int64",
        ),
        ({f"x{n}": [LINES[n].tobytes()] * 8 for n in range(32)}, "1024 bytes in one row"),
        ({"x": [[line.tobytes() for line in LINES]] * 8}, "column x .*1024 bytes"),
    ],
)
def test_columns_that_are_a_picture_together(tmp_path: Path, columns: dict, says: str, file: str) -> None:
    pa = pytest.importorskip("pyarrow")
    refused(tmp_path, lambda src: table(src / file, image=images(pa), **columns), says)


@pytest.mark.parametrize(
    "columns",
    [
        {"x": [line.tobytes() for line in LINES]},
        {"x": [{"r": int(n)} for n in FLAT]},
        {"x": [[[int(n) for n in line]] for line in LINES]},
        {"x": [[{"r": int(n)} for n in line] for line in LINES[:, :16]]},
    ],
)
def test_rows_that_are_a_picture_together(tmp_path: Path, columns: dict) -> None:
    pytest.importorskip("pyarrow")
    says = "rows that have neither a picture nor a text"
    refused(tmp_path, lambda src: table(src / "a.parquet", **columns), says)


@pytest.mark.parametrize("name", ("@metadata", "@numbers"))
def test_columns_are_not_called_as_what_copy_knows(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    refused(
        tmp_path,
        lambda src: table(src / "a.parquet", **{name: [png()] * 3}),
        "rename it",
        copy=("a.parquet/@*",),
    )


def test_lists_of_annotations_are_no_picture_together(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    objects = {"bbox": [[1.5, 2.5, 300.0, 400.0]] * 25, "area": [3.5] * 25}
    objects |= {key: list(range(25)) for key in ("id", "category", "iscrowd", "parent")}
    text = pa.array(["cat", "dog"] * 50).dictionary_encode()
    encrypted(
        tmp_path,
        lambda src: (
            table(src / "a.parquet", image=images(pa), objects=[objects] * 8),
            table(src / "b.parquet", label=list(range(100)), text=text),
        ),
    )


@pytest.mark.parametrize(
    "make, says",
    [
        (wide, "784 columns of uint8"),
        (narrow, "rows that have neither a picture nor a text"),
        (lone_lists, "rows that have neither a picture nor a text"),
        (twice, "several columns are called image"),
        (of_schema, "metadata of the schema"),
        (of_field, "column image"),
    ],
)
def test_tables_that_may_be_pictures(tmp_path: Path, make, says: str) -> None:
    refused(tmp_path, make, says)


def test_what_lies_beside_the_values_is_left_behind(tmp_path: Path) -> None:
    """Arrow's buffers may hold more than the values: under nulls, between them, behind them."""
    pa = pytest.importorskip("pyarrow")
    mark = b"SECRETLYHIDDEN!!" * 8
    bytes_there = pa.py_buffer(mark)
    offsets = pa.py_buffer(np.array([0, 64, 128], np.int32))
    null = pa.py_buffer(b"\0")
    hidden = pa.array(np.frombuffer(mark, np.uint8))
    columns = {
        "text": pa.Array.from_buffers(pa.string(), 2, [null, offsets, bytes_there]),
        "number": pa.Array.from_buffers(pa.int64(), 2, [null, bytes_there]),
        "list": pa.ListArray.from_arrays(pa.array([2, 3, 4], pa.int32()), hidden),
        "view": pa.ListViewArray.from_arrays(
            pa.array([0, 0], pa.int32()), pa.array([1, 1], pa.int32()), hidden
        ),
        "struct": pa.StructArray.from_arrays(
            [pa.array([mark.decode()] * 2)], ["x"], mask=pa.array([True] * 2)
        ),
        "image": pa.StructArray.from_arrays(
            [pa.array([mark] * 2), pa.array(["x"] * 2)], ["bytes", "path"], mask=pa.array([True] * 2)
        ),
    }
    enc = encrypted(tmp_path, lambda src: table(src / "a.arrow", **columns, label=["a", "b"]))
    assert b"SECRETLY" in (tmp_path / "src/a.arrow").read_bytes()
    assert b"SECRETLY" not in (enc / "a.arrow").read_bytes()


@pytest.mark.parametrize("kind", ("text", "binary", "list", "dictionary"))
@pytest.mark.parametrize("number", (2_000_000_000, -2_000_000_000))
def test_offsets_out_of_range(tmp_path: Path, kind: str, number: int) -> None:
    pa = pytest.importorskip("pyarrow")
    column, place = {
        "text": (pa.array(["aaaa", "bbbbb", "cccccc"]), struct.pack("<3i", 4, 9, 15)),
        "binary": (pa.array([b"aaaa", b"bbbbb", b"cccccc"]), struct.pack("<3i", 4, 9, 15)),
        "list": (pa.array([[1, 2], [3], [4, 5, 6]]), struct.pack("<3i", 2, 3, 6)),
        "dictionary": (
            pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 0, 0, 0, 1], pa.int32()), pa.array(["u", "v"])),
            struct.pack("<7i", 0, 1, 0, 0, 0, 0, 1),
        ),
    }[kind]

    def make(src: Path) -> None:
        table(src / "a.arrow", x=column)
        data = (src / "a.arrow").read_bytes()
        assert data.count(place) == 1
        (src / "a.arrow").write_bytes(data.replace(place, place[:-4] + struct.pack("<i", number)))

    refused(tmp_path, make, "a.arrow: not a table, or a damaged one")


def test_the_file_format_of_arrow(tmp_path: Path) -> None:
    """As Feather and Polars write it; it stays what it is, in several batches and with dictionaries."""
    pa = pytest.importorskip("pyarrow")
    made = pa.table({"image": images(pa), "class": pa.array(["cat", "dog"] * 4).dictionary_encode()})

    def make(src: Path) -> None:
        with pa.ipc.new_file(str(src / "a.arrow"), made.schema) as out:
            out.write_table(made, max_chunksize=3)

    enc = encrypted(tmp_path, make)
    decrypt_files(enc, tmp_path / "dec", KEY)
    became, again = (pa.ipc.open_file(str(tmp_path / f / "a.arrow")).read_all() for f in ("enc", "dec"))
    assert became["class"].to_pylist() == again["class"].to_pylist() == made["class"].to_pylist()
    for value, photo, secret in zip(again["image"].to_pylist(), PHOTOS, became["image"].to_pylist()):
        with Image.open(io.BytesIO(value["bytes"])) as image:
            np.testing.assert_array_equal(np.asarray(image), photo)
        with Image.open(io.BytesIO(secret["bytes"])) as image:
            np.testing.assert_array_equal(np.asarray(image), blockenc.encrypt(photo, KEY))


def test_compressed_batches_of_the_file_format_are_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather

    def make(src: Path) -> None:
        feather.write_feather(pa.table({"x": ["0" * 100_000]}), str(src / "a.arrow"), compression="zstd")

    refused(tmp_path, make, "a.arrow: its batches are compressed")


def test_compressed_batches_are_refused(tmp_path: Path) -> None:
    """They may unpack to any size."""
    pa = pytest.importorskip("pyarrow")

    def make(src: Path) -> None:
        made = pa.table({"image": images(pa), "zeros": pa.array(["0" * 100000] * 8)})
        with pa.ipc.new_stream(
            str(src / "a.arrow"), made.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
        ) as out:
            out.write_table(made)

    refused(tmp_path, make, "a.arrow: its batches are compressed")


# --- tar ---


def tar(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, **fields: object) -> None:
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            for field, value in fields.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("what", [k for k, v in SUSPICIOUS.items() if isinstance(v, (str, bytes))])
def test_members_are_judged_by_content(tmp_path: Path, what: str) -> None:
    value = SUSPICIOUS[what]
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    refused(tmp_path, lambda src: tar(src / "a.tar", ("0.png", png()), ("0.txt", data)), "a.tar, 0.txt: ")


def test_members_that_hold_no_picture(tmp_path: Path) -> None:
    members = [("0.png", png()), ("0.cls", b"3"), ("0.width", b"32"), ("0.whatever", b"a text"), ("0", b"")]
    enc = encrypted(tmp_path, lambda src: tar(src / "a.tar", *members))
    with tarfile.open(enc / "a.tar") as there:
        assert [(m.name, there.extractfile(m).read()) for m in there][1:] == members[1:]


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda p: tar(p, ("a.txt", b""), kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "a.txt: a link"),
        (lambda p: tar(p, ("a.png", b""), kind=tarfile.LNKTYPE, linkname="b.png"), "a.png: a link"),
        (lambda p: tar(p, ("a.txt", b""), kind=tarfile.CHRTYPE), "a.txt: a link, device"),
        (lambda p: tar(p, ("a.txt", b""), kind=tarfile.FIFOTYPE), "a.txt: a link, device"),
        (lambda p: tar(p, ("a.png", png()), ("a.jpg", png())), "several members would become a.png"),
        (lambda p: tar(p, ("a.txt", b"1"), ("a.txt", b"2")), "several members would become a.txt"),
        (
            lambda p: tar(p, ("a.txt", b"1"), pax_headers={"SCHILY.xattr.thumbnail": SUSPICIOUS["base64"]}),
            "base64",
        ),
        (lambda p: tar(p, ("a.txt", b"1"), uname=SUSPICIOUS["base64"]), "base64"),
        (
            lambda p: tar(p, ("a.txt", b"1"), pax_headers={"comment": "x" * (1 << 20)}),
            "an extended header of",
        ),
        (lambda p: tar(p, ("a.txt", b"1"), name="x" * (1 << 20)), "an extended header of"),
        (
            lambda p: tar(p, ("a.txt", b"1"), pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
            "a.txt: a link, device or sparse file",
        ),
        (lambda p: tar(p, ("a.txt", b"1"), pax_headers={"mtime": "inf"}), "a.tar, a.txt: .*its time is inf"),
        (
            lambda p: tar(p, ("a.txt", b"1"), pax_headers={"mtime": "1e400"}),
            "a.tar, a.txt: .*its time is inf",
        ),
        (lambda p: tar(p, ("a.txt", b"1"), pax_headers={"mtime": "nan"}), "a.tar, a.txt: .*its time is nan"),
        (lambda p: tar(p, ("@pax", b"1")), "rename the member"),
        (lambda p: tar(p, ("a.txt", bytes(2000))), "would take more than"),
        (lambda p: p.write_bytes(bytes(10240)), "it has no members"),
    ],
)
def test_odd_members(tmp_path: Path, make, says: str) -> None:
    refused(tmp_path, lambda src: make(src / "a.tar"), says, max_bytes=1500 if "more" in says else 1 << 28)


def test_headers_of_the_whole_archive_are_bounded(tmp_path: Path) -> None:
    """They hold for all members that follow, and are kept."""

    def make(src: Path) -> None:
        headers = (tarfile.TarInfo.create_pax_global_header({str(n): "x" * 300_000}) for n in range(4))
        tar(src / "x.tar", ("0.txt", b"0"))
        data = b"".join(headers) + (src / "x.tar").read_bytes()
        (src / "x.tar").unlink()
        (src / "a.tar").write_bytes(data)

    refused(tmp_path, make, "a.tar: .*headers of the whole archive")


def test_a_header_that_cannot_be_written_names_the_member(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "src").mkdir()
    tar(tmp_path / "src/a.tar", ("a.txt", b"1"))

    def fails(*arguments: object, **options: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr(tarfile.TarFile, "addfile", fails)
    refused(tmp_path, lambda src: None, "a.tar, a.txt: its header")


def test_sparse_members(tmp_path: Path) -> None:
    """GNU's way to leave zeros out: the header has the numbers of what is there."""
    info = tarfile.TarInfo("a.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 512
    header[483:495] = b"%011o\0" % 512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    data = bytes(header[:512]) + b"a" * 512 + bytes(1024)
    refused(tmp_path, lambda src: (src / "a.tar").write_bytes(data), "a.txt: a link, device or sparse file")


@pytest.mark.parametrize("suffix", (".tar", ".tar.gz"))
def test_damaged_headers_do_not_end_a_shard(tmp_path: Path, suffix: str) -> None:
    """Or the members behind them would be lost without a word."""

    def make(src: Path) -> None:
        tar(src / "x.tar", ("0.txt", b"0"), ("1.txt", b"1"))
        data = bytearray((src / "x.tar").read_bytes())
        (src / "x.tar").unlink()
        data[1024 + 148] ^= 1  # the checksum of the second header
        (src / f"a{suffix}").write_bytes(gzip.compress(data) if suffix == ".tar.gz" else data)

    refused(tmp_path, make, "not a tar file, or a damaged one")


def test_a_shard_without_an_end_mark_is_cut_off(tmp_path: Path) -> None:
    def make(src: Path) -> None:
        tar(src / "a.tar", ("0.txt", b"0"), ("1.txt", b"1"))
        (src / "a.tar").write_bytes((src / "a.tar").read_bytes()[:1024])

    refused(tmp_path, make, "it ends without an end mark")


# --- damaged and oversized arrays ---


def header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode()


def archive(
    path: Path, data: bytes, flags: int = 0, method: int = zipfile.ZIP_DEFLATED, names=("x.npy",)
) -> None:
    with zipfile.ZipFile(path, "w", method) as out:
        for name in names:
            out.writestr(name, data)
    content = bytearray(path.read_bytes())
    content[6] |= flags
    content[content.find(b"PK\x01\x02") + 8] |= flags
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "name, make, says",
    [
        ("a.npz", lambda p: archive(p, header("(2, 8, 8)") + bytes(128), flags=1), "a.npz, x: .*encrypted"),
        ("a.npz", lambda p: archive(p, header("(2, 8, 8)") + bytes(129)), "a.npz, x: .*other data behind it"),
        ("a.npz", lambda p: archive(p, header("(2, 8, 8)") + bytes(127)), "a.npz, x: .*ends too early"),
        ("a.npz", lambda p: archive(p, header("(-1, 8, 8)")), "a.npz, x: a damaged array"),
        ("a.npz", lambda p: archive(p, header("(1, 9223372036854775807, 2)")), "a.npz, x: .*--max-memory"),
        ("a.npz", lambda p: archive(p, header("(4, 4294967296, 4294967296, 3)")), "a.npz, x: .*--max-memory"),
        ("a.npz", lambda p: archive(p, header("(2, 0, 8)")), "a.npz, x: .*without pixels"),
        ("a.npz", lambda p: archive(p, header("(2,)", "V0")), "a.npz, x: "),
        (
            "a.npz",
            lambda p: archive(p, header("(2, 8, 8)") + bytes(128), names=("x", "x.npy")),
            "two arrays of this name",
        ),
        (
            "a.npz",
            lambda p: archive(p, b"a text", names=("readme.txt",)),
            "a.npz, readme.txt: not a NumPy array",
        ),
        ("a.npy", lambda p: p.write_bytes(header("(2, 8, 8)") + bytes(129)), "a.npy: more than one array"),
        ("a.npy", lambda p: p.write_bytes(header("(2, 8, 8)") + bytes(127)), "a.npy: not a NumPy array"),
        ("a.npy", lambda p: p.write_bytes(header("(-1, 8, 8)") + bytes(64)), "a.npy: "),
        ("a.npy", lambda p: p.write_bytes(b""), "a.npy: not a NumPy array"),
        ("a.npy", lambda p: p.write_bytes(b"\x80\x04N."), "a.npy: not a NumPy array"),
    ],
)
def test_damaged_arrays(tmp_path: Path, name: str, make, says: str) -> None:
    refused(tmp_path, lambda src: make(src / name), says)


# --- CIFAR: pickles are read, not run ---


class Call:
    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.parts = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.parts


def dtype(name: str, *state: object) -> Call:
    return Call(np.dtype, name, False, True, state=state or None)


def array(kind: object, shape: tuple, raw: bytes) -> Call:
    from numpy._core import multiarray

    return Call(multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, shape, kind, False, raw))


def batch(path: Path, protocol: int = 2, **more: object) -> None:
    fields = {b"data": noise(4, 3072), b"labels": [0] * 4}
    path.write_bytes(pickle.dumps({**fields, **{k.encode(): v for k, v in more.items()}}, protocol))


def scalar() -> object:
    from numpy._core import multiarray

    return multiarray.scalar


HOSTILE: dict[str, Callable[[], object]] = {
    "a call": lambda: Call(os.system, "touch evil"),
    "uninitialised memory": lambda: Call(np.ndarray, (100,), "u1"),
    "a dtype of fields": lambda: array(
        dtype("V8", 3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0), (8,), b"A" * 64
    ),
    "objects": lambda: array(dtype("O8", 3, "|", None, None, None, -1, -1, 0), (8,), b"A" * 64),
    "numbers with the flags of objects": lambda: array(
        dtype("i8", 3, "<", None, None, None, -1, -1, 63), (8,), b"A" * 64
    ),
    "numbers of another size": lambda: array(
        dtype("u1", 3, "|", None, None, None, 1 << 20, 1, 0), (1,), b"A"
    ),
    "too few bytes": lambda: array(dtype("u1"), (64,), b"A"),
    "a negative shape": lambda: array(dtype("u1"), (-1,), b""),
    "a scalar of objects": lambda: Call(
        scalar(), dtype("O8", 3, "|", None, None, None, -1, -1, 63), b"A" * 8
    ),
    "a subclass": lambda: Call(
        __import__("numpy._core.multiarray", fromlist=["x"])._reconstruct, np.memmap, (0,), b"b"
    ),
    "a set": lambda: {1},
    "an object": lambda: Call(Path, "x"),
}


@pytest.mark.parametrize("key", ("x", "labels", "filenames"))
@pytest.mark.parametrize("protocol", (2, 4))
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_batches(tmp_path: Path, monkeypatch, kind: str, protocol: int, key: str) -> None:
    monkeypatch.chdir(tmp_path)
    data = HOSTILE[kind]()
    refused(tmp_path, lambda src: batch(src / "data_batch_1", protocol, **{key: data}), "not a CIFAR batch")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "more, says",
    [
        ({"images": noise(4, 3072)}, "the key 'images' is none of"),
        ({"labels": FLAT.tolist()}, "'labels'"),
        ({"labels": [0.5] * 4}, "'labels'"),
        ({"labels": [1 << 80] * 4}, "'labels'"),
        ({"labels": noise(4, 64)}, "'labels'"),
        ({"filenames": [png()] * 4}, "'filenames'"),
        ({"filenames": ["x" * 1000] * 4}, "'filenames'"),
        ({"batch_label": FLAT.tobytes()}, "'batch_label'"),
        ({"data": noise(4, 3071)}, "no uint8 data of 3072 columns"),
        ({"data": noise(4, 3072).astype(np.int16)}, "no uint8 data of 3072 columns"),
        ({"data": [noise(3072)] * 4}, "no uint8 data of 3072 columns"),
    ],
)
def test_keys_of_a_batch(tmp_path: Path, more: dict, says: str) -> None:
    refused(tmp_path, lambda src: batch(src / "data_batch_1", **more), f"data_batch_1: .*{says}")


def in_itself() -> list:
    value: list = []
    value.append(value)
    return value


def doubled(levels: int) -> list:
    return [doubled(levels - 1)] * 2 if levels else ["A" * 1000]


@pytest.mark.parametrize(
    "more, says",
    [
        ({"x": in_itself()}, "named again"),
        ({"x": doubled(20)}, "named again"),
        ({"x": b"\x89PNG"}, "the key 'x' is none of"),
        ({"labels": ["A" * 1000] * 4}, "'labels'"),
        ({"extra": in_itself()}, "named again"),  # also below a key that was copied
        ({"extra": b"\x89PNG"}, None),
    ],
)
def test_encrypted_batches_are_hostile_too(tmp_path: Path, more: dict, says: str | None) -> None:
    enc = encrypted(tmp_path, lambda src: batch(src / "data_batch_1", extra=1), copy=("*/extra",))
    fields = pickle.loads((enc / "data_batch_1").read_bytes(), encoding="bytes")
    fields.update({key.encode(): value for key, value in more.items()})
    (enc / "data_batch_1").write_bytes(pickle.dumps(fields, 2))
    if says is None:
        decrypt_files(enc, tmp_path / "dec", KEY)
        assert b"\x89PNG" in (tmp_path / "dec/data_batch_1").read_bytes()
        return
    with pytest.raises(ImageFileError, match=f"data_batch_1: .*{says}"):
        decrypt_files(enc, tmp_path / "dec", KEY)
    assert not (tmp_path / "dec/data_batch_1").exists()


@pytest.mark.parametrize("fit", ("error", "pad", "crop"))
def test_block_sizes_that_do_not_fit_a_batch(tmp_path: Path, fit: str) -> None:
    """Are refused before anything is written."""
    (tmp_path / "src").mkdir()
    batch(tmp_path / "src/data_batch_1")
    with pytest.raises(
        ValueError, match="data_batch_1: CIFAR images are 32 x 32; the block size must divide"
    ):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, blockenc.Scheme(5, channels=1), fit=fit)
    assert not (tmp_path / "enc").exists()


def test_one_key_in_two_spellings(tmp_path: Path) -> None:
    data = pickle.dumps({b"data": noise(4, 3072), "data": noise(4, 3072)}, 2)
    refused(tmp_path, lambda src: (src / "data_batch_1").write_bytes(data), "'data' is there twice")


@pytest.mark.parametrize(
    "data, says",
    [
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.", "damaged"),  # a text of an exabyte
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "damaged"),
        (b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.", "damaged"),
        (b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFFF) + b".", ""),  # a place in the memo far out
        (b"\x80\x02" + b"]" * (plain_pickle.MAX_OPCODES + 10) + b".", "more instructions"),
        (b"\x80\x02" + b"(" * 100000 + b"t" * 100000 + b".", "nested too deeply"),
        (b"\x80\x02" + b"(" * 20 + b"t" * 20 + b".", ""),
        (b"\x80\x02]q\0h\0a.", "a list, dict or nested tuple that is named again"),  # a list in itself
        (b"\x80\x02]q\0}q\1(h\1h\1e.", "a list, dict or nested tuple that is named again"),
        (b"\x80\x02](K\1\x85\x85q\0h\0e.", "a list, dict or nested tuple that is named again"),
        (b"\x80\x02](K\1\x85q\0h\0h\0e.", ""),  # as shapes of arrays are
        (
            b"\x80\x02](T\x10\x27\0\0" + b"A" * 10000 + b"q\0" + b"h\0" * 10000 + b"e.",
            "what it names again is more than the file has",
        ),
        (
            b"\x80\x02](cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87Rq\0h\0e.",
            "named again before it is there",
        ),
        # Found by fuzzing: what an array, its type and a list are made of.
        (
            b"\x80\x02](cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87Re.",
            "not finished",
        ),
        (b"\x80\x02}(U\1acnumpy\ndtype\nU\2u1K\0K\1\x87Ru.", "not finished"),
        (b"\x80\x02}(U\1acnumpy\nndarray\nu.", "not finished"),
        (b"\x80\x02](a.", "not finished"),
        (b"\x80\x02}.trailing", "more than one object"),
        (b"\x80\x02NN.", "more than one object"),
        (b"\x80\x02N0}.", "the instruction POP"),
        (b"\x80\x02}(U\x01aNU\x01aNu.", "is there twice"),
        (b"\x80\x02h\0.", "damaged"),
        (b"\x80\x02}", "damaged"),
        (
            b"\x80\x02]q\0("
            + b"c_codecs\nencode\nX\xe8\x03\0\0"
            + b"a" * 1000
            + b"q\1X\6\0\0\0latin1q\2\x86R"
            + b"c_codecs\nencode\nh\1h\2\x86R" * 1000
            + b"e.",
            "more bytes than the file has",
        ),
    ],
)
def test_pickles_that_take_memory_or_hide_data(data: bytes, says: str) -> None:
    if says:
        with pytest.raises(plain_pickle.PickleError, match=says):
            plain_pickle.load(data)
    else:
        plain_pickle.load(data)


@pytest.mark.parametrize("encoding", ("bytes", "latin1"))
@pytest.mark.parametrize("python2", (False, True))
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_there_and_back(protocol: int, python2: bool, encoding: str) -> None:
    """What pickle reads of our file is what it reads of the original, whatever encoding it is told."""
    text = plain_pickle.Python2String if python2 else bytes
    value = {
        text(b"data"): noise(3, 5),
        text(b"labels"): [0, -1, 255, 1 << 40, -(1 << 40)],
        text(b"floats"): np.arange(6, dtype=">f4").reshape(2, 3),
        text(b"names"): [text(b"x\xe9.png"), text(b"y" * 300)],
        text(b"others"): (None, True, False, 0.5, "text \u00e9", ()),
    }
    file = io.BytesIO()
    if python2:
        plain_pickle.dump(value, file)
    else:
        value[b"scalar"] = np.int64(7)
        pickle.dump(value, file, protocol)
    loaded = plain_pickle.load(file.getvalue())
    again = io.BytesIO()
    plain_pickle.dump(loaded, again)
    want, got = (pickle.loads(f.getvalue(), encoding=encoding) for f in (file, again))
    assert list(want) == list(got)
    for key, item in want.items():
        np.testing.assert_array_equal(got[key], item) if isinstance(item, np.ndarray) else None
        assert isinstance(item, np.ndarray) or got[key] == item


def test_torchvision_reads_batches_of_python_2(tmp_path: Path, monkeypatch) -> None:
    """The keys of the original files are strings of Python 2, which torchvision reads as text."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "src/cifar-10-batches-py"
    folder.mkdir(parents=True)
    text = plain_pickle.Python2String
    pictures = noise(5, 2, 3072)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6))]):
        with open(folder / name, "wb") as file:
            plain_pickle.dump({text(b"data"): pictures[number], text(b"labels"): [0, 1]}, file)
    (folder / "test_batch").write_bytes((folder / "data_batch_1").read_bytes())
    with open(folder / "batches.meta", "wb") as file:
        plain_pickle.dump({text(b"label_names"): [text(b"cat"), text(b"dog")], text(b"num_vis"): 3072}, file)
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, verify="all")

    class Encrypted(datasets.CIFAR10):
        def _check_integrity(self) -> bool:
            return True

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = Encrypted(tmp_path / "enc")
    want = blockenc.encrypt(pictures.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), KEY)
    np.testing.assert_array_equal(data.data, want)
    assert data.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "meta",
    [
        png(),
        pickle.dumps({b"label_names": [png()]}),
        pickle.dumps({b"thumbnail": FLAT.tobytes()}),
        pickle.dumps({b"label_names": [b"a"]}) + png(),
    ],
)
def test_metadata_is_checked(tmp_path: Path, meta: bytes) -> None:
    def make(src: Path) -> None:
        batch(src / "data_batch_1")
        (src / "batches.meta").write_bytes(meta)

    refused(tmp_path, make, r"batches\.meta: ")


def test_metadata_of_datasets_is_checked(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")

    def make(src: Path) -> None:
        table(src / "data.arrow", image=images(pa))
        (src / "state.json").write_bytes(SUSPICIOUS["JSON"])

    refused(tmp_path, make, r"state\.json: 3072 numbers")


# --- IDX ---


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.mark.parametrize("packed", (False, True))
@pytest.mark.parametrize("size", (28, 30))
def test_mnist(tmp_path: Path, packed: bool, size: int) -> None:
    digits, labels = noise(100, size, size), noise(100) % 10

    def make(src: Path) -> None:
        for name, data in (
            ("train-images-idx3-ubyte", idx(digits.shape, digits.tobytes())),
            ("train-labels-idx1-ubyte", idx(labels.shape, labels.tobytes())),
        ):
            (src / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)

    (tmp_path / "src").mkdir()
    make(tmp_path / "src")
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, fit="pad", verify="all")
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    edge = math.ceil(size / 4) * 4
    padded = np.pad(digits, ((0, 0), (0, edge - size), (0, edge - size)), mode="edge")
    want = blockenc.encrypt(padded[..., None], KEY).tobytes()
    assert (tmp_path / "enc/train-images-idx3-ubyte").read_bytes() == idx((100, edge, edge), want)
    for folder in ("enc", "dec"):
        assert (tmp_path / folder / "train-labels-idx1-ubyte").read_bytes() == idx((100,), labels.tobytes())
    assert (tmp_path / "dec/train-images-idx3-ubyte").read_bytes() == idx(digits.shape, digits.tobytes())


def test_mnist_packed_and_unpacked(tmp_path: Path) -> None:
    """As torchvision leaves it: the packed files are left out, and counted."""
    digits = noise(100, 28, 28)
    data = idx(digits.shape, digits.tobytes())
    src = tmp_path / "src"
    src.mkdir()
    (src / "train-images-idx3-ubyte").write_bytes(data)
    (src / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    (src / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert summary.images == 200
    assert any("train-images-idx3-ubyte.gz" in line for line in units.described(summary.left_out))
    names = ["blockenc.json", "t10k-images-idx3-ubyte", "train-images-idx3-ubyte"]
    assert sorted(path.name for path in (tmp_path / "enc").iterdir()) == names


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("a-idx1-ubyte", idx((3072,), FLAT.tobytes()), "3072 bytes, not one for each picture"),
        ("a-idx3-ubyte", idx((2, 8, 8), bytes(127)), "it ends too early"),
        ("a-idx3-ubyte", idx((2, 8, 8), bytes(129)), "other data behind it"),
        ("a-idx3-ubyte", idx((2, 1 << 20, 1 << 20), b""), "--max-memory"),
        ("a-idx3-ubyte", idx((2, 0, 8), b""), "without pixels"),
        ("a-idx3-ubyte", idx((2, 2, 8, 8), bytes(256)), "not an IDX file"),
        ("a-idx3-ubyte", b"\0\0\x0d\x03", "not an IDX file"),
        ("a-idx3-ubyte.gz", idx((2, 8, 8), bytes(128)), "a damaged IDX file"),
        ("a-idx3-ubyte.gz", gzip.compress(idx((2, 8, 8), bytes(128)), mtime=0)[:-12], "a damaged IDX file"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    refused(tmp_path, lambda src: (src / name).write_bytes(data), rf"{name}: .*{says}")


# --- --copy ---


def test_copy_lets_through_what_is_named(tmp_path: Path) -> None:
    """Files, members of shards and archives, columns, keys: as they were, listed, and back again."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def make(src: Path) -> None:
        (src / "deep").mkdir()
        (src / "deep/x.gif").write_bytes(b"GIF89a")
        (src / "plain.png").write_bytes(png())
        (src / "secret.png").write_bytes(png())
        tar(src / "a.tar", ("0.png", png()), ("0.npy", FLAT.tobytes()), ("0.jpg", png()))
        np.savez(src / "b.npz", x=PHOTOS, flat=PHOTOS.ravel(), photos=PHOTOS)
        table(src / "c.parquet", image=images(pa), mask=[FLAT.tolist()] * 8, thumbnail=[png()] * 8)
        batch(src / "data_batch_1", extra=noise(4, 100))

    copy = ("*.gif", "plain.png", "a.tar/*.npy", "a.tar/0.jpg", "b.npz/flat", "b.npz/photos")
    copy += ("c.parquet/mask", "c.parquet/thumbnail", "data_batch_1/extra")
    enc = encrypted(tmp_path, make, copy=copy)
    decrypt_files(enc, tmp_path / "dec", KEY)
    src, dec = tmp_path / "src", tmp_path / "dec"
    listed = {item.name: (item.format, item.copied) for item in read_folder(enc).items()}
    assert listed == {
        "a.tar": ("tar", ("0.npy", "0.jpg")),
        "b.npz": ("numpy", ("flat", "photos")),
        "c.parquet": ("arrow", ("mask", "thumbnail")),
        "data_batch_1": ("cifar", ("extra",)),
        "deep/x.gif": ("copied", ()),
        "plain.png": ("copied", ()),
        "secret.png": ("image", ()),
    }
    for folder in (enc, dec):
        for name in ("deep/x.gif", "plain.png"):
            assert (folder / name).read_bytes() == (src / name).read_bytes()
        with tarfile.open(folder / "a.tar") as members:
            assert members.extractfile("0.npy").read() == FLAT.tobytes()
            assert members.extractfile("0.jpg").read() == png()
            assert (members.extractfile("0.png").read() == png()) is False
        with np.load(folder / "b.npz") as arrays:
            np.testing.assert_array_equal(arrays["flat"], PHOTOS.ravel())
            np.testing.assert_array_equal(arrays["photos"], PHOTOS)
            assert np.array_equal(arrays["x"], PHOTOS) == (folder == dec)
        found = parquet.read_table(folder / "c.parquet")
        assert found["mask"].to_pylist() == [FLAT.tolist()] * 8
        assert found["thumbnail"].to_pylist() == [png()] * 8
        extra, want = (
            pickle.loads((f / "data_batch_1").read_bytes(), encoding="bytes")[b"extra"] for f in (folder, src)
        )
        np.testing.assert_array_equal(extra, want)
    with Image.open(dec / "secret.png") as image:
        np.testing.assert_array_equal(np.asarray(image), PHOTO)


def with_headers(src: Path) -> None:
    tar(src / "a.tar", ("0.png", png()), ("1.png", png()), pax_headers={"SCHILY.xattr.sum": "ab" * 70})


def with_wide_columns(src: Path, kind: str = "int64") -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {f"x{n}": pa.array([n, None, *range(6)], "int32").cast(kind) for n in range(70)}
    table(src / "a.parquet", image=images(pa), **columns)


@pytest.mark.parametrize(
    "kind",
    (
        "bool",
        "float16",
        "date32",
        "date64",
        "time32",
        "time64",
        "timestamp",
        "duration",
        "decimal",
        "interval",
    ),
)
def test_wide_columns_of_any_number(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    types = {"time32": pa.time32("s"), "time64": pa.time64("us"), "timestamp": pa.timestamp("s")}
    types |= {"duration": pa.duration("s"), "decimal": pa.decimal128(12, 2), "bool": pa.bool_()}
    types |= {"float16": pa.float16(), "date32": pa.date32(), "date64": pa.date64()}

    def column(n: int) -> object:
        if kind == "interval":
            return pa.array([None, *[pa.MonthDayNano([n % 3, n % 5, k]) for k in range(7)]])
        step = {"date64": 86_400_000}.get(kind, 1)  # whole days
        ints = pa.array([None, *((n * k) % 2 * step for k in range(7))], pa.int32())
        wide = kind in ("date64", "time64", "timestamp", "duration")
        return (ints.cast(pa.int64()) if wide else ints).cast(types[kind])

    def make(src: Path) -> None:
        table(src / "a.arrow", image=images(pa), **{f"x{n}": column(n) for n in range(70)})

    refused(tmp_path, make, "a.arrow: 70 columns of .*--copy a.arrow/@numbers")


def with_loose_numbers(src: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    kind = images(pa).type
    table(src / "a.parquet", image=pa.nulls(100, kind), x=list(range(100)))


def of_nested_field(src: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct([pa.field("a", pa.list_(pa.field("b", pa.int32(), metadata={"x": png()})))])
    table(src / "a.arrow", image=images(pa), x=pa.array([{"a": [1]}] * 8, kind))


@pytest.mark.parametrize(
    "make, copy",
    [
        (of_schema, "a.parquet/@metadata"),
        (of_field, "a.arrow/@metadata"),
        (of_nested_field, "a.arrow/@metadata"),
        (with_wide_columns, "a.parquet/@numbers"),
        (with_loose_numbers, "a.parquet/@numbers"),
        (with_headers, "a.tar/@pax"),
    ],
)
def test_the_copy_that_an_error_advises_works_and_copies_no_picture(
    tmp_path: Path, make: Callable, copy: str
) -> None:
    def contents(folder: Path) -> list:
        (file,) = (path for path in folder.iterdir() if path.name.startswith("a."))
        if file.suffix == ".tar":
            with tarfile.open(file) as members:
                return [members.extractfile(m).read() for m in members] + [
                    m.pax_headers for m in members.getmembers()
                ]
        import pyarrow as pa
        from pyarrow import parquet

        found = parquet.read_table(file) if file.suffix == ".parquet" else pa.ipc.open_stream(file).read_all()
        pictures = [value and value["bytes"] for value in found["image"].to_pylist()]
        return [pictures, found.drop_columns(["image"]).to_pydict(), found.schema.to_string(1 << 30)]

    refused(tmp_path, make, f"--copy {copy}$")
    enc = encrypted(tmp_path, lambda src: None, copy=(copy,))
    assert [item.copied for item in read_folder(enc).items()] == [(copy.rpartition("/")[2],)]
    decrypt_files(enc, tmp_path / "dec", KEY)
    was, became, again = (contents(tmp_path / name) for name in ("src", "enc", "dec"))
    assert was[-1] == became[-1] == again[-1]
    pictures = [data for data in (became[:2] if copy.endswith("pax") else became[0]) if data]
    assert png() not in pictures
    assert pictures or make is with_loose_numbers
    if not copy.endswith("pax"):
        assert was[1] == became[1] == again[1]


def test_copy_names_whole_names(tmp_path: Path) -> None:
    """A pattern for one member is none for another; the error of what is refused names the pattern."""

    def make(src: Path) -> None:
        tar(src / "a.tar", ("0.png", png()), ("[1].npy", FLAT.tobytes()))

    refused(tmp_path, make, r"--copy 'a\.tar/\[\[\]1\]\.npy'", copy=("*/0.npy", "[1].npy", "a.tar"[:-1]))
    encrypted(tmp_path, lambda src: None, copy=("a.tar/[[]1].npy",))


def test_a_folder_named_as_an_output(tmp_path: Path) -> None:
    (tmp_path / "src/a.png").mkdir(parents=True)
    (tmp_path / "src/a.png/b.png").write_bytes(png())
    (tmp_path / "src/a.jpg").write_bytes(png())
    with pytest.raises(ValueError, match=r"a\.jpg would become a\.png, which is a folder"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    assert not (tmp_path / "enc").exists()


# --- random damage ---


class Unchanged:
    """A change that reads every picture and leaves it."""

    reading = Reading(max_bytes=1 << 24)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images

    def picture(self, source: bytes, name: object) -> bytes:
        return pictures.read(source, name, self.reading).png()

    def copies(self, member: str) -> bool:
        return False


def samples(folder: Path) -> None:
    """A small file of each format."""
    for kind in ("png", "jpg", "bmp", "webp", "tif", "ppm"):
        Image.fromarray(PHOTO).save(folder / f"a.{kind}")
    batch(folder / "data_batch_1")
    np.save(folder / "a.npy", noise(5, 8, 8))
    np.savez_compressed(folder / "a.npz", x=noise(5, 8, 8), y=np.arange(5))
    tar(folder / "a.tar", ("a.png", png()), ("a.cls", b"1"))
    (folder / "b.tar.gz").write_bytes(gzip.compress((folder / "a.tar").read_bytes()))
    (folder / "a-idx3-ubyte").write_bytes(idx((2, 8, 8), bytes(128)))
    pa = pytest.importorskip("pyarrow")
    table(folder / "a.arrow", image=images(pa)[:2], text=["a", "b"], list=[[1, 2]] * 2)


def test_random_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    samples(tmp_path)
    random = np.random.default_rng(0)
    failed = set()
    for path in sorted(tmp_path.iterdir()):
        kind, whole = format_of(path), path.read_bytes()
        for _ in range(60):
            data = bytearray(whole[: random.integers(1, 2 * len(whole))])
            for place in random.integers(0, len(data), random.integers(1, 4)):
                data[place : place + 4] = random.integers(0, 256, 4, np.uint8).tobytes()
            path.write_bytes(data)
            try:
                if kind.claims(path):
                    kind.sizes(path, Unchanged.reading)
                    kind.rewrite(path, io.BytesIO(), Unchanged())
            except ImageFileError as error:
                assert path.name in str(error)  # noqa: PT017
                failed.add(path.name)
    assert len(failed) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("kind", ("tar", "npz", "arrow"))
def test_names_are_judged_too(tmp_path: Path, kind: str) -> None:
    """Of members, arrays and columns: a picture in base64 is found there; ordinary names pass."""

    def write(name: str, path: Path) -> None:
        path.parent.mkdir(parents=True)
        if kind == "tar":
            with tarfile.open(path, "w") as tar:
                for member, data in ((f"{name}.png", png(PHOTO)), (f"{name}.txt", b"a cat")):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        elif kind == "npz":
            np.savez(path, **{name: PHOTO[None]})
        else:
            pa = pytest.importorskip("pyarrow")
            table = pa.table({name: pa.array([png(PHOTO)]), "label": pa.array([3])})
            with pa.ipc.new_stream(str(path), table.schema) as out:
                out.write_table(table)

    for n, name in enumerate(("image", "train_n01440764_ILSVRC2012_val_00000293", "d" * 90)):
        write(name, tmp_path / f"good{n}" / f"a.{kind}")
        encrypt_files(tmp_path / f"good{n}", tmp_path / f"out{n}", KEY, SCHEME)
    write(base64.urlsafe_b64encode(PHOTO.tobytes()[:90]).decode(), tmp_path / "bad" / f"a.{kind}")
    with pytest.raises(RefusedError, match="which may be a picture"):
        encrypt_files(tmp_path / "bad", tmp_path / "no", KEY, SCHEME)
    assert not list(tmp_path.glob("no/a*"))
