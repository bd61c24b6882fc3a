"""Which files a run takes, where it puts them, and decryption where no manifest tells how."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blockenc
from blockenc.datasets import units
from blockenc.datasets.engine import decrypt_files, decrypt_unlisted, encrypt_files
from blockenc.datasets.formats import BY_NAME
from blockenc.datasets.manifest import ManifestError, read_folder
from blockenc.datasets.pixels import ImageFileError, RefusedError
from blockenc.datasets.reading import Reading
from blockenc.datasets.units import Selection
from blockenc.errors import BlockencError
from tests.test_datasets import (
    KEY,
    SCHEME,
    contents,
    cut_off,
    decoded,
    encoded,
    images_of,
    make_cifar,
    make_images,
    make_npy,
    make_tar,
    noise,
)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """class0/0.png, 2, 4 and 6, and class1/1.png, 3 and 5."""
    make_images(tmp_path / "src")
    return tmp_path / "src"


# --- include, exclude ---


@pytest.mark.parametrize(
    "include, exclude, taken",
    [
        (("*.png",), (), "0123456"),
        (("class1/*",), (), "135"),
        (("class1",), (), "135"),
        ((), ("class1",), "0246"),
        (("[0-3].png",), (), "0123"),
        (("class0/*", "5.png"), (), "02456"),
        (("class0",), ("4.png", "*/6.*"), "02"),
        ((), ("CLASS0",), "0123456"),
        ((), ("lass1",), "0123456"),
    ],
)
def test_patterns(src: Path, tmp_path: Path, include: tuple, exclude: tuple, taken: str) -> None:
    """The same ones in encryption and decryption; what they leave out is counted."""
    selection = Selection(include, exclude)
    want = {f"class{int(n) % 2}/{n}.png" for n in taken}
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME, selection=selection)
    assert contents(tmp_path / "enc").keys() == want | {"blockenc.json"}
    left = summary.left_out.get(units.EXCLUDED)
    assert (left.files if left else 0) == 7 - len(taken)
    encrypt_files(src, tmp_path / "all", KEY, SCHEME)
    summary = decrypt_files(tmp_path / "all", tmp_path / "dec", KEY, selection=selection)
    assert contents(tmp_path / "dec").keys() == want
    left = summary.left_out.get(units.EXCLUDED)
    assert (left.files if left else 0) == 7 - len(taken)


def test_patterns_that_leave_nothing(src: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images here .*; 7 excluded files left out \(.*, \.\.\.\)"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME, selection=Selection(("*.jpg",)))
    with pytest.raises(ValueError, match="is one file; which files to take"):
        encrypt_files(src / "class0/0.png", tmp_path / "e", KEY, SCHEME, selection=Selection(("*.png",)))
    assert not (tmp_path / "enc").exists()


# --- damaged files ---


def damage(src: Path) -> None:
    """One whose header tells, one that only decoding finds, and one shard."""
    (src / "class0/0.png").write_bytes(b"no image")
    (src / "class1/big.png").write_bytes(encoded(noise(64, 64, 3))[:3000])
    (src / "a\tb\x1b.tar").write_bytes(b"no shard")


def test_damaged_files_are_skipped_and_listed(src: Path, tmp_path: Path) -> None:
    damage(src)
    with pytest.raises(ImageFileError, match=r"class0/0\.png"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert not (tmp_path / "enc").exists()
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME, skip_damaged=True)
    assert summary.images == 6
    assert summary.left_out[units.DAMAGED].files == 3
    lines = (tmp_path / "enc/blockenc.skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a\\tb\\x1b.tar", "class0/0.png", "class1/big.png"]
    assert "0.png: not an image" in lines[1]
    assert sum(1 for _ in read_folder(tmp_path / "enc").items()) == 6
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    assert len(contents(tmp_path / "dec")) == 6
    for path in src.rglob("*.tar"):
        path.unlink()
    (src / "class0/0.png").write_bytes(encoded(noise(8, 8)))
    (src / "class1/big.png").unlink()
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, skip_damaged=True)
    assert not (tmp_path / "enc/blockenc.skipped.txt").exists()  # the list of the run before


def test_skipping_and_resuming(src: Path, tmp_path: Path) -> None:
    damage(src)
    cut_off(src, tmp_path / "enc", 3, skip_damaged=True)
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, skip_damaged=True)
    encrypt_files(src, tmp_path / "want", KEY, SCHEME, skip_damaged=True)
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")


def test_altered_files_are_skipped_in_decryption(src: Path, tmp_path: Path) -> None:
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    (tmp_path / "enc/class1/3.png").write_bytes(encoded(noise(8, 12, 3)))
    with pytest.raises(ImageFileError, match="altered"):
        decrypt_files(tmp_path / "enc", tmp_path / "no", KEY)
    summary = decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY, skip_damaged=True)
    assert (summary.images, summary.left_out[units.DAMAGED].names) == (6, ("class1/3.png",))
    assert "class1/3.png\t" in (tmp_path / "dec/blockenc.skipped.txt").read_text()
    assert not (tmp_path / "dec/class1/3.png").exists()


def test_only_what_cannot_be_read_is_skipped(src: Path, tmp_path: Path) -> None:
    (src / "odd.png").write_bytes(encoded(noise(7, 8)))
    with pytest.raises(ValueError, match="not a multiple"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME, skip_damaged=True)
    with pytest.raises(ValueError, match="is one file"):
        encrypt_files(src / "odd.png", tmp_path / "enc", KEY, SCHEME, skip_damaged=True)


def tar_of(*members: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize(
    "name, make, says, options",
    [
        (
            "may be a picture.tar",
            lambda path: path.write_bytes(
                tar_of(("0.png", encoded(noise(8, 12, 3))), ("0.npy", b"\xff" * 99))
            ),
            "may be a picture; remove",
            {},
        ),
        ("deep.png", lambda path: Image.new("I;16", (8, 12)).save(path), "more than 8 bits", {}),
        ("cmyk.jpg", lambda path: Image.new("CMYK", (8, 12)).save(path), "pixels of mode CMYK", {}),
        (
            "large.png",
            lambda path: Image.new("RGB", (40, 20)).save(path),
            "MB of memory",
            {"max_bytes": 2000},
        ),
        ("bomb.png", lambda path: Image.new("RGB", (99, 99)).save(path), "decompression bomb", {}),
        ("small.png", lambda path: Image.new("RGB", (4, 4)).save(path), "fewer than the crop", {"crop": 8}),
    ],
)
def test_what_is_refused_is_not_skipped(
    src: Path, tmp_path: Path, monkeypatch, name: str, make: Callable, says: str, options: dict
) -> None:
    """It is no damage: the user has to decide."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    make(src / name)
    with pytest.raises(RefusedError, match=says):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME, skip_damaged=True, reading=Reading(**options))


# --- what an earlier run, cut off, was allowed, and this one is not ---

PLAIN = encoded(noise(8, 12, 3))


def stopped_by_damage(src: Path, dst: Path, **options) -> None:
    """A run that does all but a damaged file, which is there no more afterwards."""
    (src / "z.png").write_bytes(encoded(noise(64, 64, 3))[:3000])
    with pytest.raises(ImageFileError, match=r"z\.png"):
        encrypt_files(src, dst, KEY, SCHEME, workers=1, **options)
    (src / "z.png").unlink()


@pytest.mark.parametrize(
    "name, content, copy",
    [
        ("a.png", PLAIN, "a.png"),
        ("a.jpg", encoded(noise(8, 12, 3), "JPEG"), "a.jpg"),  # a copy has another name than the encryption
        ("a.tar", tar_of(("0.png", PLAIN), ("1.png", PLAIN)), "a.tar/1.png"),
    ],
)
def test_copies_that_are_not_let_through_any_more(
    src: Path, tmp_path: Path, name: str, content: bytes, copy: str
) -> None:
    (src / name).write_bytes(content)
    stopped_by_damage(src, tmp_path / "enc", reading=Reading(copy=(copy,)))
    assert PLAIN in contents(tmp_path / "enc")[name] or (tmp_path / "enc" / name).read_bytes() == content
    encrypt_files(src, tmp_path / "want", KEY, SCHEME)
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert contents(tmp_path / "enc") == contents(tmp_path / "want")
    assert (summary.copied, summary.resumed) == (0, 7)


def test_copies_that_are_still_let_through_are_kept_and_counted(src: Path, tmp_path: Path) -> None:
    (src / "a.png").write_bytes(PLAIN)
    (src / "b.tar").write_bytes(tar_of(("0.png", PLAIN), ("1.png", PLAIN)))
    reading = Reading(copy=("a.png", "b.tar/1.png"))
    stopped_by_damage(src, tmp_path / "enc", reading=reading)
    more = Reading(copy=(*reading.copy, "later.npy"), convert=True)  # for what the first run stopped at
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME, reading=more)
    assert (summary.images, summary.resumed, summary.copied) == (0, 8, 2)
    assert (tmp_path / "enc/a.png").read_bytes() == PLAIN
    assert decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY).copied == 2


def test_a_copy_that_is_asked_for_later(src: Path, tmp_path: Path) -> None:
    stopped_by_damage(src, tmp_path / "enc")
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME, reading=Reading(copy=("*/0.png",)))
    assert (summary.resumed, summary.copied) == (6, 1)
    assert (tmp_path / "enc/class0/0.png").read_bytes() == (src / "class0/0.png").read_bytes()


def test_a_copy_that_nothing_replaces(src: Path, tmp_path: Path) -> None:
    """It is deleted if its source is there, so that nothing is lost; else the user has to decide."""
    (src / "a.png").write_bytes(PLAIN)
    (src / "b.png").write_bytes(PLAIN)
    stopped_by_damage(src, tmp_path / "enc", reading=Reading(copy=("a.png", "b.png")))
    (src / "b.png").rename(tmp_path / "b.png")
    without = Selection(exclude=("a.png",))
    with pytest.raises(ManifestError, match=r"enc/b\.png: unencrypted, .* give that --copy again, or remove"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME, selection=without)
    assert (tmp_path / "enc/a.png").read_bytes() == PLAIN
    (tmp_path / "enc/b.png").unlink()
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, selection=without)
    assert not (tmp_path / "enc/a.png").exists()
    assert sum(1 for _ in read_folder(tmp_path / "enc").items()) == 7


def test_copies_of_a_finished_run_are_told_of(src: Path, tmp_path: Path) -> None:
    """The run after it may be of another source, so they stay."""
    for name in ("a.jpg", "b.jpg", "c.png"):
        (src / name).write_bytes(PLAIN)
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, reading=Reading(copy=("?.jpg", "c.png")))
    said: list[str] = []
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, warn=said.append)
    (line,) = said
    assert line.startswith(f"{tmp_path / 'enc/a.jpg'} (and 1 more): unencrypted, or in part, by the --copy")
    assert contents(tmp_path / "enc")["c.png"] != PLAIN
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME, reading=Reading(copy=("?.jpg",)), warn=said.append)
    assert len(said) == 1


def test_a_loss_that_is_not_accepted_any_more(src: Path, tmp_path: Path) -> None:
    Image.new("I;16", (8, 12)).save(src / "a.png")
    stopped_by_damage(src, tmp_path / "enc", reading=Reading(convert=True))
    with pytest.raises(RefusedError, match=r"a\.png: more than 8 bits"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert encrypt_files(src, tmp_path / "enc", KEY, SCHEME, reading=Reading(convert=True)).resumed == 8


def test_verification_takes_in_what_an_earlier_run_did(src: Path, tmp_path: Path) -> None:
    cut_off(src, tmp_path / "enc", 3)
    cut_off(src, tmp_path / "enc", 2, verify="all")
    summary = encrypt_files(src, tmp_path / "enc", KEY, SCHEME, verify="all")
    assert (summary.resumed, summary.images) == (2, 5)


def test_all_files_are_let_through(src: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing to encrypt, for copy \(--copy\) lets all 7 files through"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME, reading=Reading(copy=("*",)))


def test_a_time_that_no_database_holds(src: Path, tmp_path: Path) -> None:
    """That of a file may be any; one that changes is noticed all the same."""
    os.utime(src / "class0/0.png", ns=(0, 2**63 + 10**9))
    cut_off(src, tmp_path / "enc", 7)
    os.utime(src / "class0/0.png", ns=(0, 2**63 + 2 * 10**9))
    assert encrypt_files(src, tmp_path / "enc", KEY, SCHEME).resumed == 6


@pytest.mark.parametrize("where", ["sizes", "rewrite"])
def test_what_nobody_foresaw_names_the_file(src: Path, tmp_path: Path, monkeypatch, where: str) -> None:
    def fails(self, source, *rest):
        raise OverflowError("too large")

    monkeypatch.setattr(type(BY_NAME["image"]), where, fails)
    with pytest.raises(BlockencError, match=r"\d\.png: cannot be processed \(OverflowError: too large\)"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)


def test_files_without_images_are_counted(tmp_path: Path) -> None:
    make_cifar(tmp_path / "src")
    np.save(tmp_path / "src/labels.npy", np.arange(9))
    assert encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME).without == 2
    assert decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY).without == 2


# --- encrypted already ---


def test_what_is_encrypted_already_is_refused(src: Path, tmp_path: Path) -> None:
    enc = tmp_path / "enc"
    encrypt_files(src, enc, KEY, SCHEME)
    encrypt_files(src / "class0/0.png", tmp_path / "one/x.png", KEY, SCHEME)
    for number, place in enumerate((enc, enc / "class0", enc / "class1/3.png", tmp_path / "one/x.png")):
        out = tmp_path / f"twice{number}"
        with pytest.raises(ValueError, match=r"encrypted already, says .*json; --again"):
            encrypt_files(place, out, KEY, SCHEME)
        assert not out.exists()
        encrypt_files(place, out, KEY, SCHEME, again=True)
    twice = decoded((tmp_path / "twice0/class1/3.png").read_bytes())
    once = decoded((enc / "class1/3.png").read_bytes())
    np.testing.assert_array_equal(twice, blockenc.encrypt(once, KEY))


def test_an_encrypted_folder_or_file_within_src_is_found(src: Path, tmp_path: Path) -> None:
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    (tmp_path / "enc").rename(src / "enc")
    with pytest.raises(ValueError, match=r"encrypted already, says .*src/enc/blockenc.json"):
        encrypt_files(src, tmp_path / "out", KEY, SCHEME)
    (src / "enc").rename(tmp_path / "enc")
    encrypt_files(src / "class0/0.png", tmp_path / "x.png", KEY, SCHEME)
    (tmp_path / "x.png").rename(src / "x.png")
    (tmp_path / "x.png.json").rename(src / "x.png.json")
    with pytest.raises(ValueError, match=r"encrypted already, says .*src/x.png.json"):
        encrypt_files(src, tmp_path / "out", KEY, SCHEME)


def test_other_json_files_do_not_matter(src: Path, tmp_path: Path) -> None:
    """Annotations beside an image, and a damaged manifest in some folder above."""
    (src / "class0/0.png.json").write_text('{"boxes": []}')
    (tmp_path / "blockenc.json").write_text("nonsense")
    assert encrypt_files(src, tmp_path / "enc", KEY, SCHEME).left_out[units.OTHER].files == 1
    encrypt_files(src / "class0/0.png", tmp_path / "x.png", KEY, SCHEME)


# --- where outputs go ---


@pytest.mark.parametrize(
    "source, dst, says",
    [
        (
            "photo.jpg",
            "secret.jpg",
            "pictures are written as PNG files; write .*secret.png, or name a folder",
        ),
        ("photo.jpg", "secret.jpeg", "write .*secret.png"),
        ("photo.jpg", "secret.gif", "write .*secret.png"),
        ("photo.jpg", "secret.v2", "write .*secret.png, or name a folder"),
        ("data.npz", "x.npy", "data.npz comes out as a .npz file; write .*x.npz"),
        ("data.npy", "x.npz", "data.npy comes out as a .npy file; write .*x.npy"),
        ("data.npy", "x.png", "data.npy comes out as a .npy file; write .*x.npy"),
        ("a.tar.gz", "b.tgz", "a.tar.gz comes out as a .tar file; write .*b.tar,"),
        ("a.tar.gz", "b.tar.gz", "a.tar.gz comes out as a .tar file; write .*b.tar,"),
        ("test_batch", "out.bin", "test_batch comes out as test_batch; name a folder"),
    ],
)
def test_one_file_to_a_file_of_another_kind(tmp_path: Path, source: str, dst: str, says: str) -> None:
    """Refused, with what to write instead; a slash at the end, or a folder that is there, makes it one."""
    (tmp_path / "in").mkdir()
    if source == "photo.jpg":
        (tmp_path / "in/photo.jpg").write_bytes(encoded(noise(8, 8, 3), "JPEG"))
    elif source == "test_batch":
        make_cifar(tmp_path / "in")
    elif source == "a.tar.gz":
        import gzip

        make_tar(tmp_path / "in")
        (tmp_path / "in/a.tar.gz").write_bytes(gzip.compress((tmp_path / "in/train-0.tar").read_bytes()))
    else:
        make_npy(tmp_path / "in")
        (tmp_path / "in/nhwc.npy").rename(tmp_path / "in/data.npy")
        (tmp_path / "in/all.npz").rename(tmp_path / "in/data.npz")
    with pytest.raises(ValueError, match=says):
        encrypt_files(tmp_path / "in" / source, tmp_path / dst, KEY, SCHEME)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    encrypt_files(tmp_path / "in" / source, f"{tmp_path / dst}/", KEY, SCHEME)
    assert (tmp_path / dst / "blockenc.json").is_file()
    encrypt_files(tmp_path / "in" / source, tmp_path / dst, KEY, SCHEME)


def test_decryption_to_a_file_of_another_kind(src: Path, tmp_path: Path) -> None:
    encrypt_files(src / "class0/0.png", tmp_path / "x.png", KEY, SCHEME)
    with pytest.raises(ValueError, match=r"write .*photo.png, or name a folder"):
        decrypt_files(tmp_path / "x.png", tmp_path / "photo.jpg", KEY)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        decrypt_files(tmp_path / "x.png", tmp_path / "file", KEY)
    decrypt_files(tmp_path / "x.png", tmp_path / "photo.PNG", KEY)
    decrypt_files(tmp_path / "x.png", tmp_path / "folder", KEY)
    assert (tmp_path / "photo.PNG").read_bytes() == (tmp_path / "folder/x.png").read_bytes()


def test_a_folder_to_what_is_called_like_a_file(src: Path, tmp_path: Path) -> None:
    for name in ("out.png", "out.JPG", "out.tar", "out.npz"):
        with pytest.raises(ValueError, match=r"SRC is a folder, and DST has the name of a file"):
            encrypt_files(src, tmp_path / name, KEY, SCHEME)
        assert not (tmp_path / name).exists()
    encrypt_files(src, f"{tmp_path}/out.png/", KEY, SCHEME)
    encrypt_files(src, tmp_path / "out.v2", KEY, SCHEME)
    with pytest.raises(ValueError, match="has the name of a file"):
        decrypt_files(tmp_path / "out.v2", tmp_path / "dec.png", KEY)


def test_a_target_that_is_a_folder_of_another_target(src: Path, tmp_path: Path) -> None:
    """a.jpg becomes a.png, and a.png/ is a folder: refused before anything is written."""
    (src / "a.jpg").write_bytes(encoded(noise(8, 8, 3), "JPEG"))
    (src / "a.png-x").mkdir()  # sorts between a.png and a.png/
    (src / "a.png-x/b.png").write_bytes(encoded(noise(8, 8, 3)))
    encrypt_files(src, tmp_path / "fine", KEY, SCHEME)
    (src / "a.png").mkdir()
    (src / "a.png/b.png").write_bytes(encoded(noise(8, 8, 3)))
    with pytest.raises(ValueError, match=r"a\.jpg would become a\.png, which is a folder \(.*a\.png/b\.png"):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert not (tmp_path / "enc").exists()


def test_names_that_blockenc_writes_itself_are_not_outputs(tmp_path: Path) -> None:
    for name in ("blockenc.json", "blockenc.0of3.json", "blockenc.skipped.txt"):
        (tmp_path / name).touch()
        with contextlib.closing(units.Units(tmp_path)) as some:
            some.add(name, BY_NAME["metadata"], name)
            with pytest.raises(ValueError, match=f"{name}: is a name that blockenc writes itself"):
                some._check_names(tmp_path, Reading())


# --- decryption without a manifest ---


def unlisted(src: Path, dst: Path, **options) -> list[str]:
    said: list[str] = []
    scheme = options.pop("scheme", SCHEME)
    decrypt_unlisted(src, dst, KEY, scheme, warn=said.append, **options)
    return said


def test_a_folder_without_its_manifest(tmp_path: Path) -> None:
    make_images(tmp_path / "src/i")
    make_npy(tmp_path / "src/n")
    make_tar(tmp_path / "src/t")
    scheme = blockenc.Scheme(channels=1, block_size=2, steps=("np", "shuffle"))
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, scheme)
    with pytest.raises(
        ValueError,
        match=r"listed in .*enc/blockenc.json, which tells the scheme and sizes; decrypt .*enc without them",
    ):
        unlisted(tmp_path / "enc", tmp_path / "dec", scheme=scheme)
    (tmp_path / "enc/blockenc.json").unlink()
    with pytest.raises(ManifestError, match=r"no blockenc\.json"):
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    said = unlisted(tmp_path / "enc", tmp_path / "dec", scheme=scheme)
    with pytest.raises(ManifestError, match="no blockenc"):
        decrypt_files(tmp_path / "enc/i", tmp_path / "no", KEY)
    assert len(said) == 1
    assert "nothing tells whether the key, the block size and the steps are those" in said[0]
    plain, back = images_of(tmp_path / "src"), images_of(tmp_path / "dec")
    assert plain.keys() == back.keys()
    for name, images in plain.items():
        for image, other in zip(images, back[name], strict=True):
            np.testing.assert_array_equal(image, other)


def test_a_part_of_an_encrypted_folder(src: Path, tmp_path: Path) -> None:
    """What tells its scheme is up the tree."""
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    with pytest.raises(ManifestError, match=r"is a part of .*enc; decrypt that, with --include class1"):
        decrypt_files(tmp_path / "enc/class1", tmp_path / "dec", KEY)
    with pytest.raises(ValueError, match=r"decrypt .*enc without them"):
        unlisted(tmp_path / "enc/class1", tmp_path / "dec")


def test_files_that_the_manifest_does_not_list_are_counted(src: Path, tmp_path: Path) -> None:
    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    assert decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY).left_out == {}
    for name in ("labels.csv", "class1/new.png", "class1/.hidden"):
        (tmp_path / "enc" / name).touch()
    left_out = decrypt_files(tmp_path / "enc", tmp_path / "again", KEY).left_out
    assert left_out == {units.UNLISTED: (2, ("class1/new.png", "labels.csv"))}


def test_one_file_without_its_manifest(tmp_path: Path) -> None:
    image = noise(7, 13, 3)
    (tmp_path / "a.png").write_bytes(encoded(image))
    encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME, fit="pad")
    (tmp_path / "x.png.json").unlink()
    with pytest.raises(ManifestError, match="unless --block-size and --steps tell the scheme"):
        decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY)
    unlisted(tmp_path / "x.png", tmp_path / "y.png", size=(13, 7))
    np.testing.assert_array_equal(decoded((tmp_path / "y.png").read_bytes()), image)
    unlisted(tmp_path / "x.png", tmp_path / "z.png")
    padded = decoded((tmp_path / "z.png").read_bytes())
    assert padded.shape == (8, 16, 3)
    np.testing.assert_array_equal(padded[:7, :13], image)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "x.png", "y.png", "z.png"}


@pytest.mark.parametrize("mode", ("rgb", "keep"))
@pytest.mark.parametrize("channels", (1, 3, 4))
def test_modes_without_a_manifest(tmp_path: Path, mode: str, channels: int) -> None:
    """Colours and alpha come back, if the mode is that of the encryption."""
    image = np.squeeze(noise(8, 12, channels))
    (tmp_path / "a.png").write_bytes(encoded(image))
    encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME, reading=Reading(mode))
    (tmp_path / "x.png.json").unlink()
    unlisted(tmp_path / "x.png", tmp_path / "y.png", mode=mode)
    back = decoded((tmp_path / "y.png").read_bytes())
    if channels == 1 and mode == "rgb":
        image = np.repeat(image[..., None], 3, axis=2)
    np.testing.assert_array_equal(back, image)


def test_what_cannot_be_decrypted_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name, data, options, says in (
        ("a.jpg", encoded(noise(8, 8, 3), "JPEG"), {}, "JPEG files do not keep encrypted pixels"),
        ("a.png", encoded(noise(7, 8, 3)), {}, "not a multiple of the block size 4"),
        ("a.png", encoded(noise(8, 8, 3)), {"size": (9, 8)}, "8 x 8 pixels is less than the size 9 x 8 to"),
        ("a.png", b"no image", {}, "not an image"),
    ):
        path = tmp_path / "src" / name
        path.write_bytes(data)
        for place in (tmp_path / "src", path):
            with pytest.raises((ValueError, BlockencError), match=says):
                unlisted(place, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
        path.unlink()


def test_a_run_without_a_manifest_is_taken_up(src: Path, tmp_path: Path) -> None:
    def stop(done, total):
        yield next(iter(done))
        raise KeyboardInterrupt

    encrypt_files(src, tmp_path / "enc", KEY, SCHEME)
    (tmp_path / "enc/blockenc.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        unlisted(tmp_path / "enc", tmp_path / "dec", track=stop, workers=1)
    with pytest.raises(ManifestError, match="another scheme"):
        unlisted(tmp_path / "enc", tmp_path / "dec", scheme=blockenc.Scheme(channels=1, steps=("np",)))
    summary = decrypt_unlisted(tmp_path / "enc", tmp_path / "dec", KEY, SCHEME, warn=str)
    assert (summary.images, summary.resumed) == (6, 1)
    assert contents(tmp_path / "dec").keys() == contents(src).keys()
    with pytest.raises(FileExistsError, match="--force"):
        unlisted(tmp_path / "enc", tmp_path / "dec")
    unlisted(tmp_path / "enc", tmp_path / "dec", force=True)
    assert not [path for path in tmp_path.rglob(".*") if os.path.lexists(path)]
