"""Data sets on disk: every format comes back to the pixel, whatever cuts a run off, and nothing leaks."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pathlib
import pickle
import sqlite3
import tarfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blockenc
from benchmarks.data.kill import kill_and_resume
from blockenc.datasets import engine, journal, pictures, work
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.formats import BY_NAME
from blockenc.datasets.manifest import HELD, Manifest, ManifestError, part_name, read_folder
from blockenc.datasets.pixels import ImageFileError, stored_png
from blockenc.errors import BlockencError, WrongKeyError
from tests import oracle

KEY = blockenc.Key(oracle.KEY)
SCHEME = blockenc.Scheme(channels=1)
CIPHER = blockenc.Cipher(KEY)
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# --- one maker a format: writes files, and tells how to read the images of one back ---


def make_images(src: Path) -> None:
    for n in range(7):
        path = src / f"class{n % 2}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(8, 12, 3)))


def make_cifar(src: Path) -> None:
    src.mkdir(parents=True, exist_ok=True)
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        batch = {b"data": noise(6, 3072), b"labels": list(range(6)), b"filenames": [b"x.png"] * 6}
        (src / name).write_bytes(pickle.dumps(batch, protocol=2))
    (src / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b"]}))


def make_tar(src: Path) -> None:
    src.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(src / f"train-{shard}.tar", "w") as tar:
            for n in range(5):
                members = {"png": encoded(noise(16, 8, 3)), "cls": b"%d" % n, "json": b'{"n": 1}'}
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"dir/{n:04d}.{suffix}")
                    info.size, info.mtime = len(data), 1000 + n
                    tar.addfile(info, io.BytesIO(data))


def make_npy(src: Path) -> None:
    src.mkdir(parents=True, exist_ok=True)
    np.save(src / "nhwc.npy", noise(9, 8, 12, 3))
    np.save(src / "nchw.npy", noise(9, 3, 8, 12))
    np.save(src / "grey.npy", noise(9, 8, 12))
    np.save(src / "fortran.npy", np.asfortranarray(noise(9, 8, 12, 4)))
    np.save(src / "labels.npy", np.arange(9))
    np.save(src / "scalar.npy", np.float64(3))
    np.save(src / "none.npy", noise(0, 8, 8, 3))
    np.savez(src / "all.npz", x_train=noise(5, 8, 8, 3), y_train=np.arange(5), x_test=noise(6, 8, 8))
    np.savez_compressed(src / "packed.npz", x=noise(5, 3, 8, 8), boxes=np.ones((5, 4)), n=np.int64(5))


def make_parquet(src: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    src.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(noise(8, 8, 3)), "path": f"{n}.jpg"} for n in range(5)] + [None]
    columns = {
        "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "raw": pa.array([encoded(noise(4, 4))] * 6, pa.binary()),
        "label": list(range(6)),
        "boxes": [[1.0, 2.0]] * 6,
    }
    table = pa.table(columns).replace_schema_metadata({"huggingface": '{"info": {}}'})
    parquet.write_table(table, src / "train.parquet")
    with pa.OSFile(str(src / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


MAKERS: dict[str, Callable[[Path], None]] = {
    "image": make_images,
    "cifar": make_cifar,
    "tar": make_tar,
    "numpy": make_npy,
    "arrow": make_parquet,
}


@pytest.fixture(params=MAKERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    MAKERS[request.param](tmp_path / "src")
    return tmp_path / "src"


def arrays_of(batch: np.ndarray | pictures.Encoded) -> list[np.ndarray]:
    """The images of a batch, channels last; of a picture file as a loader reads it."""
    if isinstance(batch, pictures.Encoded):
        source = batch.source
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return [np.asarray(image.convert("RGB"))]
    return [image.copy() for image in batch]


def images_of(folder: Path) -> dict[str, list[np.ndarray]]:
    """All images below a folder, by file."""
    found = {}
    for name in contents(folder):
        kind = next((k for k in BY_NAME.values() if k.names(Path(name).name)), None)
        if kind and name != "blockenc.json":
            found[name] = [image for batch in kind.images(folder / name) for image in arrays_of(batch)]
    return found


def test_there_and_back(source: Path, tmp_path: Path) -> None:
    """The encrypted images are Cipher.encrypt's, the decrypted ones the originals, all else is the same."""
    enc, dec = tmp_path / "enc", tmp_path / "dec"
    summary = encrypt_files(source, enc, KEY, SCHEME, verify="all")
    decrypt_files(enc, dec, KEY)
    plain, encrypted, restored = images_of(source), images_of(enc), images_of(dec)
    assert plain.keys() == encrypted.keys() == restored.keys()
    assert summary.images == sum(map(len, plain.values())) > 4
    for name, images in plain.items():
        for image, there, back in zip(images, encrypted[name], restored[name], strict=True):
            np.testing.assert_array_equal(there, blockenc.encrypt(image, KEY))
            np.testing.assert_array_equal(back, image)
    assert not list(enc.rglob(".*"))
    assert not list(dec.rglob(".*"))


def test_everything_but_the_pixels_stays(tmp_path: Path) -> None:
    for name, make in MAKERS.items():
        make(tmp_path / "src" / name)
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    src, enc = tmp_path / "src", tmp_path / "enc"
    before, after = ((f / "cifar/data_batch_1").read_bytes() for f in (src, enc))
    first, second = pickle.loads(before, encoding="bytes"), pickle.loads(after, encoding="bytes")
    assert {k: v for k, v in first.items() if k != b"data"} == {
        k: v for k, v in second.items() if k != b"data"
    }
    assert (src / "cifar/batches.meta").read_bytes() == (enc / "cifar/batches.meta").read_bytes()
    with tarfile.open(src / "tar/train-0.tar") as a, tarfile.open(enc / "tar/train-0.tar") as b:
        assert a.getnames() == b.getnames()
        assert [m.mtime for m in a] == [m.mtime for m in b]
        assert a.extractfile("dir/0003.cls").read() == b.extractfile("dir/0003.cls").read() == b"3"
    for name in ("labels", "scalar", "none"):
        np.testing.assert_array_equal(np.load(src / f"numpy/{name}.npy"), np.load(enc / f"numpy/{name}.npy"))
    with np.load(src / "numpy/packed.npz") as a, np.load(enc / "numpy/packed.npz") as b:
        assert set(a) == set(b)
        np.testing.assert_array_equal(a["boxes"], b["boxes"])
        assert b["n"] == 5
    from pyarrow import parquet

    a, b = (parquet.read_table(f / "arrow/train.parquet") for f in (src, enc))
    assert a.schema.equals(b.schema, check_metadata=True)
    assert a.drop(["image", "raw"]).equals(b.drop(["image", "raw"]))
    assert b["image"].to_pylist()[0]["path"] == "0.png"
    assert b["image"].to_pylist()[5] is None


def test_other_libraries_read_the_output(tmp_path: Path) -> None:
    """webdataset, Hugging Face datasets and torchvision, where they are installed."""
    webdataset = pytest.importorskip("webdataset")
    datasets = pytest.importorskip("datasets")
    torchvision = pytest.importorskip("torchvision")
    make_tar(tmp_path / "src")
    photos = [noise(8, 8, 3) for _ in range(300)]
    data = datasets.Dataset.from_dict({"image": photos, "label": list(range(300))})
    data = data.cast_column("image", datasets.Image())
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "src/hf")
    data.to_parquet(tmp_path / "src/hf.parquet")
    make_images(tmp_path / "src/tree")
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    enc = tmp_path / "enc"

    shards = webdataset.WebDataset(str(enc / "train-0.tar"), shardshuffle=False).decode("rgb8")
    samples = [(sample["png"], sample["cls"]) for sample in shards]
    assert [label for _, label in samples] == list(range(5))
    want = [CIPHER.encrypt(image) for image in images_of(tmp_path / "src")["train-0.tar"]]
    assert all(np.array_equal(image, other) for (image, _), other in zip(samples, want, strict=True))

    loaded = datasets.load_from_disk(str(enc / "hf"))["train"]
    packed = datasets.Dataset.from_parquet(str(enc / "hf.parquet"), cache_dir=str(tmp_path / "cache"))
    for got in (loaded, packed):
        assert got["label"] == list(range(300))
        assert all(
            np.array_equal(np.asarray(row["image"]), CIPHER.encrypt(photo))
            for row, photo in zip(got, photos, strict=True)
        )
    tree = torchvision.datasets.ImageFolder(enc / "tree")
    assert tree.classes == ["class0", "class1"]
    assert len(tree) == 7


@pytest.mark.parametrize("fit", ("pad", "crop"))
def test_fit(tmp_path: Path, fit: str) -> None:
    src, enc, dec = (tmp_path / name for name in ("src", "enc", "dec"))
    src.mkdir()
    np.save(src / "a.npy", noise(5, 9, 13, 3))
    (src / "b.png").write_bytes(encoded(noise(7, 5)))
    encrypt_files(src, enc, KEY, SCHEME, fit=fit, verify="all")
    assert np.load(enc / "a.npy").shape == ((5, 12, 16, 3) if fit == "pad" else (5, 8, 12, 3))
    decrypt_files(enc, dec, KEY)
    for name, images in images_of(src).items():
        for image, back in zip(images, images_of(dec)[name], strict=True):
            np.testing.assert_array_equal(back, image[: back.shape[0], : back.shape[1]])
            assert fit == "crop" or back.shape == image.shape
    with pytest.raises(ValueError, match=r"13 x 9 pixels is not a multiple .*1 more images"):
        encrypt_files(src, tmp_path / "no", KEY, SCHEME)
    assert not (tmp_path / "no").exists()


def test_one_file(tmp_path: Path) -> None:
    make_npy(tmp_path / "src")
    encrypt_files(tmp_path / "src/nhwc.npy", tmp_path / "new/x.npy", KEY, SCHEME)
    assert set(contents(tmp_path / "new")) == {"x.npy", "x.npy.json"}
    decrypt_files(tmp_path / "new/x.npy", tmp_path / "back", KEY)
    np.testing.assert_array_equal(np.load(tmp_path / "back/x.npy"), np.load(tmp_path / "src/nhwc.npy"))


# --- nothing leaves unencrypted: what is not understood is an error ---


def object_array(path: Path) -> None:
    np.save(path, np.array([{}], object), allow_pickle=True)


def table(path: Path, **columns) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({name: pa.array(*args) for name, args in columns.items()}), path)


def tar_with(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "other"
        tar.addfile(info)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    "name, make, says",
    [
        ("a.npy", lambda p: np.save(p, noise(5, 3072)), "flattened"),
        ("a.npy", lambda p: np.save(p, np.zeros((5, 8, 8, 3), np.float32)), "encrypted as uint8"),
        ("a.npy", lambda p: np.save(p, noise(5, 3, 4, 4)), "cannot tell the channels"),
        ("a.npy", lambda p: np.save(p, noise(5, 8, 8, 5)), "cannot tell the channels"),
        ("a.npy", lambda p: np.save(p, noise(5, 8, 3)), "cannot tell the channels"),
        ("a.npy", lambda p: np.save(p, noise(2, 5, 8, 8, 3)), "cannot tell the channels"),
        ("a.npy", object_array, "not a NumPy array|objects"),
        ("a.npy", lambda p: p.write_bytes(b"nonsense"), "not a NumPy array"),
        ("a.npz", lambda p: np.savez(p, x=np.zeros((5, 8, 8), np.uint16)), "a.npz, x: uint16 array"),
        ("a.npz", lambda p: np.savez(p, x=np.asfortranarray(noise(5, 8, 8))), "Fortran order"),
        ("a.npz", lambda p: p.write_bytes(b"nonsense"), "not an npz file"),
        ("a.parquet", lambda p: table(p, x=([b"?" * 64],)), "column x"),
        ("a.parquet", lambda p: table(p, x=([noise(8, 8).tolist()],)), "column x"),
        ("a.parquet", lambda p: table(p, x=([[{"bytes": b"?", "path": ""}]],)), "column x"),
        ("a.parquet", lambda p: table(p, x=([{"bytes": None, "path": "x.png"}],)), "the file x.png"),
        ("a.parquet", lambda p: p.write_bytes(b"nonsense"), "not a table"),
        ("a.arrow", lambda p: p.write_bytes(b"nonsense"), "a.arrow"),
        ("a.tar", lambda p: tar_with(p, "x.gif"), "x.gif"),
        ("a.tar", lambda p: tar_with(p, "x.npy"), "x.npy"),
        ("a.tar", lambda p: tar_with(p, "x.png", tarfile.SYMTYPE), "x.png"),
        ("a.tar", lambda p: tar_with(p, "x.png"), "x.png: not an image"),
        ("a.tar", lambda p: p.write_bytes(b"nonsense"), "not a tar file"),
        ("test_batch", lambda p: p.write_bytes(pickle.dumps(Evil())), "posix.system|nt.system"),
        ("test_batch", lambda p: p.write_bytes(pickle.dumps({b"data": 1})), "not a CIFAR batch"),
        ("test_batch", lambda p: p.write_bytes(b"\x80nonsense"), "not a CIFAR batch"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, name: str, make, says: str) -> None:
    (tmp_path / "src").mkdir()
    make(tmp_path / "src" / name)
    with pytest.raises(ImageFileError, match=says):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    assert not (tmp_path / "enc").exists()
    assert not Path("evil").exists()


# --- tampering, mixing ---


def test_altered_data_is_told(tmp_path: Path) -> None:
    make_npy(tmp_path / "src")
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    path = tmp_path / "enc/nhwc.npy"
    array = np.load(path)
    for change, says in (
        (lambda a: a ^ (np.arange(9) == 4).astype(np.uint8)[:, None, None, None], "image 4 differs"),
        (lambda a: a[:8], "8 images of 9"),
        (lambda a: np.concatenate([a, a]), "more than 9"),
    ):
        np.save(path, change(array))
        with pytest.raises(ImageFileError, match=says):
            decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY, force=True)
        assert not (tmp_path / "dec/nhwc.npy").exists()
    np.save(path, array)
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)


def cut_off(src: Path, dst: Path, after: int, **options) -> None:
    """A run that ends after some units, as Ctrl-C ends it."""

    def stop(done, total):
        for number, one in enumerate(done, 1):
            yield one
            if number == after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encrypt_files(src, dst, KEY, SCHEME, workers=1, track=stop, **options)


def test_keys_and_schemes_do_not_mix(source: Path, tmp_path: Path) -> None:
    """Neither in a finished folder nor in one that a run was cut off in."""
    enc = tmp_path / "enc"
    other = blockenc.Key(bytes(32))
    cut_off(source, enc, 1)
    for finished in (False, True):
        with pytest.raises(WrongKeyError, match=f"{KEY.fingerprint}.*{other.fingerprint}"):
            encrypt_files(source, enc, other, SCHEME)
        with pytest.raises(ManifestError, match="another scheme"):
            encrypt_files(source, enc, KEY, blockenc.Scheme(channels=1, steps=("np",)))
        with pytest.raises(ManifestError, match="another"):
            encrypt_files(source, enc, KEY, SCHEME, fit="pad")
        if not finished:
            with pytest.raises(ManifestError, match="not finished"):
                decrypt_files(enc, tmp_path / "dec", KEY)
            encrypt_files(source, enc, KEY, SCHEME)


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "src")

    def second(done, total):
        with pytest.raises(BlockencError, match="another run is writing here"):
            encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
        yield from done

    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, track=second)


# --- size: nothing is held for each image, or each file ---


def test_a_file_of_many_images(tmp_path: Path) -> None:
    """More images than a worker holds records of; damage to their list in the manifest is told."""
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src/many.npy", noise(3 * HELD + 5, 8, 8, 3))
    cut_off(tmp_path / "src", tmp_path / "enc", 1)
    assert list((tmp_path / "enc/.blockenc-run").glob("*.pictures"))
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, verify="all")
    encrypt_files(tmp_path / "src", tmp_path / "want", KEY, SCHEME, verify="all")
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")
    (tmp_path / "src/one.png").write_bytes(encoded(noise(4, 4)))
    (tmp_path / "src/many.npy").unlink()
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)  # keeps what the old manifest lists
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    assert decrypt_files(tmp_path / "want", tmp_path / "plain", KEY).images == 3 * HELD + 5
    assert contents(tmp_path / "dec")["many.npy"] == contents(tmp_path / "plain")["many.npy"]
    path = tmp_path / "want/blockenc.json"
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if line.startswith("   [8, 8, 3"))
    for damaged, says in (
        (lines[: first + 10], "cut off"),
        (lines[:first] + lines[first + 1 :], "altered since it was written"),
        ([text.replace("[8, 8, 3", "[8, -8, 3", 1)], "altered since it was written"),
    ):
        path.write_text("".join(damaged))
        with pytest.raises((ManifestError, ImageFileError), match=says):
            decrypt_files(tmp_path / "want", tmp_path / "no", KEY)
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("job", ("encrypt", "decrypt"))
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, monkeypatch, job: str) -> None:
    """What a run keeps of each file is on disk: a list of what is to be done would add 150 kB here."""
    interned = tracemalloc.Filter(False, pathlib.__file__)  # of all strings of the process

    def held(count: int) -> int:
        """Bytes in use when the last unit is done."""

        def look(done, total):
            for number, one in enumerate(done, 1):
                yield one
                if number == count:
                    gc.collect()
                    sizes.append(tracemalloc.take_snapshot().filter_traces([interned]))

        sizes: list[tracemalloc.Snapshot] = []
        src, enc = tmp_path / f"src{count}", tmp_path / f"enc{count}"
        src.mkdir()
        for n in range(count):
            (src / f"{n}.png").write_bytes(data)
        if job == "decrypt":
            encrypt_files(src, enc, KEY, SCHEME)
        tracemalloc.start()
        if job == "encrypt":
            encrypt_files(src, enc, KEY, SCHEME, workers=1, track=look)
        else:
            decrypt_files(enc, tmp_path / f"dec{count}", KEY, workers=1, track=look)
        tracemalloc.stop()
        return sum(found.size for found in sizes[0].statistics("filename"))

    data = encoded(noise(4, 4))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    held(10)
    assert held(400) < held(100) + 40_000


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (8, 8, 3), (65535, 1, 1), (1, 65534, 1), (1, 65535, 1), (3, 30000, 4), (255, 257, 1)]
)
def test_stored_png(shape: tuple[int, ...]) -> None:
    """Sizes on both sides of what one stored block holds."""
    image = noise(*shape)
    with Image.open(io.BytesIO(stored_png(image))) as file:
        file.verify()  # the checksums
    np.testing.assert_array_equal(decoded(stored_png(image)).reshape(shape), image)


# --- resuming ---


def test_a_second_run_does_only_the_rest(source: Path, tmp_path: Path) -> None:
    encrypt_files(source, tmp_path / "want", KEY, SCHEME)
    cut_off(source, tmp_path / "enc", 1)
    work_folder = journal.work_folder(tmp_path / "enc", "blockenc")
    with contextlib.closing(sqlite3.connect(work_folder / "journal")) as database:
        done = [os.fsdecode(name) for (name,) in database.execute("SELECT target FROM done")]
    assert done
    stamps = {name: (tmp_path / "enc" / name).stat().st_mtime_ns for name in done}
    (work_folder / ".blockenc.half.tmp").write_bytes(b"half-written")
    summary = encrypt_files(source, tmp_path / "enc", KEY, SCHEME)
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")
    assert {name: (tmp_path / "enc" / name).stat().st_mtime_ns for name in done} == stamps
    manifest = Manifest.read(tmp_path / "enc/blockenc.json")
    resumed = sum(len(item.images) for item in manifest.items() if item.name in done)
    assert summary.resumed == resumed


def test_a_journal_that_a_kill_left_empty_or_that_is_damaged(tmp_path: Path) -> None:
    make_images(tmp_path / "src")
    encrypt_files(tmp_path / "src", tmp_path / "want", KEY, SCHEME)
    path = journal.work_folder(tmp_path / "enc", "blockenc") / "journal"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"job": "encrypt"}\n' * 100)
    with pytest.raises(ManifestError, match=r"journal: cannot be read .*; delete .*blockenc-run"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    path.write_bytes(b"")
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for name in (b"\xff.png", b"\xc3\xa9.png", b"\xf0\x9f\x94\x91.png", b"z.png"):
        try:
            (src / os.fsdecode(name)).write_bytes(encoded(noise(8, 8, 3)))
        except OSError:
            pytest.skip("this file system wants Unicode")
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    assert images_of(src).keys() == images_of(tmp_path / "dec").keys()
    assert len(images_of(src)) == 4


def test_what_changed_or_vanished_meanwhile_is_done_again(tmp_path: Path) -> None:
    make_images(tmp_path / "src")
    cut_off(tmp_path / "src", tmp_path / "enc", 3)
    (tmp_path / "src/class0/0.png").write_bytes(encoded(noise(16, 16, 3)))
    (tmp_path / "enc/class0/2.png").unlink()
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    encrypt_files(tmp_path / "src", tmp_path / "want", KEY, SCHEME)
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")


def test_a_file_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    make_images(tmp_path / "src")
    cut_off(tmp_path / "src", tmp_path / "enc", 1)
    strange = tmp_path / "enc/class1/5.png"
    strange.parent.mkdir(exist_ok=True)
    strange.write_bytes(b"someone else's")
    with pytest.raises(FileExistsError, match="--force"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    assert strange.read_bytes() == b"someone else's"


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_and_resumed(tmp_path: Path) -> None:
    """A few kills of encryption and decryption; `python -m benchmarks.data.kill` does many."""
    for name, make in MAKERS.items():
        make(tmp_path / "src" / name)
    for n in range(150):
        (tmp_path / f"src/{n}.png").write_bytes(encoded(noise(64, 64, 3)))
    encrypt_files(tmp_path / "src", tmp_path / "want", KEY, SCHEME, fit="pad")
    decrypt_files(tmp_path / "want", tmp_path / "plain", KEY)
    for job, src, dst, want in (("encrypt", "src", "enc", "want"), ("decrypt", "want", "dec", "plain")):
        assert (
            kill_and_resume(job, *(tmp_path / n for n in (src, dst, want)), kills=3, longest=0.4).at_work >= 1
        )
        assert contents(tmp_path / dst) == contents(tmp_path / want)


# --- verification ---


@pytest.mark.parametrize("verify", ("none", "sample", "all"))
def test_verification_finds_a_bad_output(source: Path, tmp_path: Path, monkeypatch, verify: str) -> None:
    def wrong(self, images, name):
        out = encrypting(self, images, name).copy()
        out[:, -1:, -1:] ^= 1
        return out

    encrypting = work.Encrypting.transform
    monkeypatch.setattr(work.Encrypting, "transform", wrong)
    if verify == "none":
        encrypt_files(source, tmp_path / "enc", KEY, SCHEME)
        return
    with pytest.raises(BlockencError, match="verification failed"):
        encrypt_files(source, tmp_path / "enc", KEY, SCHEME, verify=verify)


def test_verification_compares_with_the_source(tmp_path: Path, monkeypatch) -> None:
    """Even where the digests agree: encrypting something else than the source is noticed."""
    make_images(tmp_path / "src")
    encrypting = work.Encrypting.transform
    monkeypatch.setattr(
        work.Encrypting, "transform", lambda self, images, name: encrypting(self, images ^ 1, name)
    )
    with pytest.raises(BlockencError, match="image 0 does not come back"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, verify="all")
    assert not (tmp_path / "enc").exists()


# --- shards ---


def test_shards_make_the_same_output(source: Path, tmp_path: Path) -> None:
    encrypt_files(source, tmp_path / "want", KEY, SCHEME)
    enc = tmp_path / "enc"
    for i in (2, 0):
        encrypt_files(source, enc, KEY, SCHEME, shard=(i, 3))
        assert (enc / part_name(i, 3)).is_file()
        with pytest.raises(ManifestError, match=r"no manifest of shard .*1 here"):
            decrypt_files(enc, tmp_path / "dec", KEY)
    with pytest.raises(ManifestError, match="of other ones"):
        encrypt_files(source, enc, KEY, SCHEME, shard=(1, 2))
    encrypt_files(source, enc, KEY, SCHEME, shard=(1, 3))
    read_folder(enc).write(tmp_path / "merged.json", read_folder(enc).items(), KEY)
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "want/blockenc.json").read_bytes()
    decrypt_files(enc, tmp_path / "dec", KEY)
    decrypt_files(tmp_path / "want", tmp_path / "plain", KEY)
    assert contents(tmp_path / "dec") == contents(tmp_path / "plain")
    encrypt_files(source, enc, KEY, SCHEME)  # takes the shards' manifests in
    assert contents(enc) == contents(tmp_path / "want")
    with pytest.raises(ManifestError, match="without shards"):
        encrypt_files(source, enc, KEY, SCHEME, shard=(0, 3))


@pytest.mark.parametrize("shard", [(3, 3), (-1, 2), (0, 0)])
def test_bad_shards(tmp_path: Path, shard: tuple[int, int]) -> None:
    make_images(tmp_path / "src")
    with pytest.raises(ValueError, match="shard: expected i/n"):
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, shard=shard)


# --- what workers are sent ---


def test_a_job_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = bytes(range(100, 132))
    jobs = []

    def spy(job, units, workers):
        jobs.append(pickle.dumps((job, list(units))))
        return engine.in_threads(job, pickle.loads(jobs[0])[1], workers)

    make_images(tmp_path / "src")
    encrypt_files(tmp_path / "src", tmp_path / "enc", blockenc.Key(secret), SCHEME, engine=spy)
    assert secret not in jobs[0]
    assert secret.hex().encode() not in jobs[0]


def test_few_units_are_in_hand_at_once(tmp_path: Path) -> None:
    make_images(tmp_path / "src")
    taken = []

    def counting(job, units, workers):
        def counted():
            for unit in units:
                taken.append(unit)
                yield unit

        for done, result in enumerate(engine.in_threads(job, counted(), 1), 1):
            assert len(taken) - done <= engine.WAITING
            yield result

    assert encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, engine=counting).images == 7


@pytest.mark.parametrize("workers, share", [(1, 4), (2, 2), (8, 1)])
def test_workers_share_the_processors(tmp_path: Path, monkeypatch, workers: int, share: int) -> None:
    """Each worker's kernels have a part of the threads; what the process had, it has again."""
    seen = set()
    do = work.do
    monkeypatch.setattr(engine, "do", lambda *args: seen.add(torch.get_num_threads()) or do(*args))
    make_images(tmp_path / "src")
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, workers=workers)
        assert seen == {share}
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
