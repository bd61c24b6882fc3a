"""Manifests are authenticated: what one says is believed only if its writer had the key."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blockenc
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.manifest import (
    HELD,
    Manifest,
    ManifestError,
    PictureLog,
    find_manifest,
    part_of,
    read_folder,
)
from blockenc.datasets.reading import Reading
from blockenc.errors import WrongKeyError
from tests import oracle
from tests.test_datasets import KEY, SCHEME, contents, decoded, encoded, images_of, make_images, noise

Change = Callable[[str], str]


@pytest.fixture
def enc(tmp_path: Path) -> Path:
    """Images that differ in size, one padded, encrypted with blocks of 4 and steps of which each matters."""
    make_images(tmp_path / "src")
    (tmp_path / "src/odd.png").write_bytes(encoded(noise(7, 13, 3)))
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, fit="pad")
    return tmp_path / "enc"


def as_version_2(text: str) -> str:
    """The manifest as release 0.1.0 wrote it."""
    head, _, _ = text.replace('"version": 3', '"version": 2', 1).partition(' "mac"')
    return head.removesuffix(" },\n") + " }\n}\n"


def sealed(text: str) -> str:
    """A manifest with the tag that it must have under KEY."""
    head = text.partition(' "mac"')[0]
    tag = hmac.digest(KEY.mac_key("blockenc/manifest"), head.encode(), "sha256")
    return f'{head} "mac": "{tag.hex()}"\n}}\n'


def rewrite(path: Path, change: Change) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def swap_digests(text: str) -> str:
    lines = text.splitlines(keepends=True)
    first, second = (n for n, line in enumerate(lines) if "class0/0" in line or "class0/2" in line)
    (a, of_a), (b, of_b) = (lines[n].split(": ", 1) for n in (first, second))
    lines[first], lines[second] = f"{a}: {of_b}", f"{b}: {of_a}"
    return "".join(lines)


# What each of these did without a tag: other pixels, fewer files, other names, all with exit status 0.
CHANGES: dict[str, Change] = {
    "a step less": lambda text: text.replace('   "np",\n', "", 1),
    "steps in another order": lambda text: text.replace('"shuffle",\n   "np"', '"np",\n   "shuffle"'),
    "smaller blocks": lambda text: text.replace('"block_size": 4', '"block_size": 2'),
    "another fit": lambda text: text.replace('"fit": "pad"', '"fit": "crop"'),
    "another width": lambda text: text.replace('"width": 13', '"width": 14'),
    "another height": lambda text: text.replace('"height": 7', '"height": 6'),
    "another source": lambda text: text.replace('"source": "odd.png"', '"source": "evil"'),
    "a file less": lambda text: "".join(
        line for line in text.splitlines(keepends=True) if "class0/2" not in line
    ),
    "files exchanged": swap_digests,
    "another tag": lambda text: text[:-10] + ("0" if text[-10] != "0" else "1") + text[-9:],
    "white space": lambda text: text.replace('"version": 3', '"version":  3'),
    "another profile": lambda text: text.replace('"ffx": "byte"', '"ffx": "decimal"'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_altered_manifest_is_refused(enc: Path, tmp_path: Path, change: str) -> None:
    """Before anything is written, by decryption and by encryption into the folder."""
    rewrite(enc / "blockenc.json", CHANGES[change])
    with pytest.raises(ManifestError, match=r"blockenc\.json: altered since it was written"):
        decrypt_files(enc, tmp_path / "dec", KEY)
    with pytest.raises(ManifestError, match=r"blockenc\.json: altered since it was written"):
        decrypt_files(enc / "odd.png", tmp_path / "dec/x.png", KEY)
    assert not (tmp_path / "dec").exists()
    before = contents(enc)
    with pytest.raises(ManifestError, match=r"altered|another scheme"):
        encrypt_files(tmp_path / "src", enc, KEY, SCHEME, fit="pad", force=True)
    assert contents(enc) == before


def test_the_tag_is_hmac_sha256_of_what_comes_before_it(enc: Path) -> None:
    """So that others can check it: under HKDF-SHA256 of the key for "blockenc/manifest"."""
    text = (enc / "blockenc.json").read_bytes()
    before, _, after = text.partition(b' "mac"')
    prk = hmac.digest(bytes(32), oracle.KEY, "sha256")
    subkey = hmac.digest(prk, b"blockenc/manifest\x01", "sha256")
    assert after == b': "%s"\n}\n' % hmac.new(subkey, before, hashlib.sha256).hexdigest().encode()
    assert json.loads(text)["mac"]


def test_a_tag_of_another_key_does_not_do(enc: Path, tmp_path: Path) -> None:
    """Even where the manifest names the right key."""
    other = blockenc.Key(bytes(32))
    encrypt_files(tmp_path / "src", tmp_path / "other", other, SCHEME, fit="pad")
    rewrite(tmp_path / "other/blockenc.json", lambda text: text.replace(other.fingerprint, KEY.fingerprint))
    with pytest.raises(ManifestError, match="altered"):
        decrypt_files(tmp_path / "other", tmp_path / "dec", KEY)
    with pytest.raises(WrongKeyError):
        decrypt_files(enc, tmp_path / "dec", other)
    assert not (tmp_path / "dec").exists()


def test_the_manifest_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(7, 13, 3)))
    encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME, fit="pad")
    rewrite(tmp_path / "x.png.json", CHANGES["another width"])
    with pytest.raises(ManifestError, match=r"x\.png\.json: altered"):
        decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY)
    assert not (tmp_path / "y.png").exists()


def test_annotations_beside_a_file_are_no_manifest_of_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.png").write_bytes(encoded(noise(8, 12, 3)))
    (tmp_path / "src/a.png.json").write_text('{"description": ""}')
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME, reading=Reading(copy=("*.json",)))
    found = find_manifest(tmp_path / "enc/a.png")
    assert found is not None
    assert (found[0].paths, found[1] and found[1].name) == ((tmp_path / "enc/blockenc.json",), "a.png")
    decrypt_files(tmp_path / "enc/a.png", tmp_path / "a.png", KEY)
    assert (
        decoded((tmp_path / "a.png").read_bytes()) == decoded((tmp_path / "src/a.png").read_bytes())
    ).all()


def test_a_list_of_many_images(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src/a.npy", noise(HELD + 3, 8, 8, 3))
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    lines = (tmp_path / "enc/blockenc.json").read_text().splitlines(keepends=True)
    (tmp_path / "enc/blockenc.json").write_text("".join(lines[:100] + lines[101:]))
    with pytest.raises(ManifestError, match="altered"):
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    assert not (tmp_path / "dec").exists()


def test_many_large_palettes(tmp_path: Path) -> None:
    """In blocks of 256 a palette takes 350 kB: those of a shard are not all held in memory."""
    data = io.BytesIO()
    Image.fromarray(noise(256, 256, 3)).quantize(16).save(data, "PNG")
    (tmp_path / "src").mkdir()
    with tarfile.open(tmp_path / "src/a.tar", "w") as tar:
        for n in range(2):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
    scheme = dataclasses.replace(SCHEME, block_size=256, steps=("np",))
    held = []
    add = PictureLog.add

    def look(self, pictures):
        add(self, pictures)
        held.append(len(self._held))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PictureLog, "add", look)
        encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, scheme)
    assert held == [0, 0]
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    with tarfile.open(tmp_path / "dec/a.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            with Image.open(file) as got, Image.open(data) as want:
                np.testing.assert_array_equal(np.asarray(got.convert("RGB")), np.asarray(want.convert("RGB")))


def test_shards(tmp_path: Path) -> None:
    """Each has its tag, and cannot stand for the whole nor for another one."""
    make_images(tmp_path / "src")
    enc = tmp_path / "enc"
    for n in range(2):
        encrypt_files(tmp_path / "src", enc, KEY, SCHEME, shard=(n, 2))
    one, two, whole = (enc / name for name in ("blockenc.0of2.json", "blockenc.1of2.json", "blockenc.json"))
    decrypt_files(enc, tmp_path / "dec", KEY)
    texts = one.read_text(), two.read_text()
    whole.write_text(texts[0])  # half of the files as if they were all
    with pytest.raises(ManifestError, match="of another shard"):
        decrypt_files(enc, tmp_path / "no", KEY)
    whole.unlink()
    two.write_text(texts[0])
    with pytest.raises(ManifestError, match="of another shard"):
        decrypt_files(enc, tmp_path / "no", KEY)
    two.write_text(texts[1].replace('"width": 12', '"width": 11', 1))
    with pytest.raises(ManifestError, match=r"1of2\.json: altered"):
        decrypt_files(enc, tmp_path / "no", KEY)
    assert not (tmp_path / "no").exists()


def test_a_shard_of_very_many(enc: Path) -> None:
    """The name of a file alone must not take memory, or time."""
    (enc / "blockenc.json").rename(enc / "blockenc.7of99999999999999.json")
    with pytest.raises(ManifestError, match=r"no manifest of shard 0, 1, .*, 20 here"):
        read_folder(enc)
    assert part_of("blockenc.07of9.json") is None
    assert part_of("blockenc.7of9.json") == (7, 9)


# --- version 2, of release 0.1.0: no tag ---


def test_version_2_is_read_with_a_warning(enc: Path, tmp_path: Path) -> None:
    rewrite(enc / "blockenc.json", as_version_2)
    said: list[str] = []
    decrypt_files(enc, tmp_path / "dec", KEY, warn=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{enc / 'blockenc.json'}: a manifest of version 2, which is not authenticated")
    for name, (image,) in images_of(tmp_path / "src").items():
        np.testing.assert_array_equal(images_of(tmp_path / "dec")[name][0], image)
    with pytest.warns(UserWarning, match="not authenticated"):
        decrypt_files(enc, tmp_path / "again", KEY)


def test_version_3_is_read_without_one(enc: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decrypt_files(enc, tmp_path / "dec", KEY)


def test_version_2_is_taken_over_with_a_warning(enc: Path, tmp_path: Path) -> None:
    """Encrypting into its folder again makes one of version 3 of it."""
    rewrite(enc / "blockenc.json", as_version_2)
    said: list[str] = []
    encrypt_files(tmp_path / "src", enc, KEY, SCHEME, fit="pad", warn=said.append)
    assert len(said) == 1
    assert Manifest.read(enc / "blockenc.json").version == 3
    decrypt_files(enc, tmp_path / "dec", KEY, warn=pytest.fail)


def test_version_2_is_still_checked(enc: Path, tmp_path: Path) -> None:
    """Order, wholeness and names are, as they were."""
    text = as_version_2((enc / "blockenc.json").read_text())
    for change, says in (
        (lambda t: t[:-2], "cut off"),
        (lambda t: t.replace('"class0/0.png":', '"zzz/0.png":'), "missing|out of order"),
        (lambda t: t.replace('"odd.png":', '"../odd.png":'), "path"),
        (lambda t: t.replace('"odd.png":', '"/odd.png":'), "path"),
        (lambda t: t.replace('"odd.png":', '".x-run/odd.png":'), "path"),
        (lambda t: t.replace('"odd.png":', '"odd\\u0000.png":'), "path"),
        (lambda t: t.replace('"odd.png":', '"odd\\ud800.png":'), "can't encode"),
        (lambda t: t.replace('"width": 13', '"width": -13'), "width or height"),
        (lambda t: t.replace('"width": 13', '"width": 16'), None),
    ):
        assert change(text) != text
        (enc / "blockenc.json").write_text(change(text))
        if says is None:  # what only a tag can tell
            decrypt_files(enc, tmp_path / "dec", KEY, warn=str)
            continue
        with pytest.raises((ManifestError, FileNotFoundError), match=says):
            decrypt_files(enc, tmp_path / "dec", KEY, warn=str)
        assert not (tmp_path / "dec").exists()
