"""Keys for each image while data are loaded, thrown away or not, and on disk."""

from __future__ import annotations

import io
import tarfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import blockenc
from blockenc import DISPOSABLE, Cipher, EncryptCollate
from blockenc.cli import app as cli
from blockenc.datasets.coding import Jpeg
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.manifest import Item, ManifestError, Pictures, read_folder
from blockenc.datasets.on_ray import in_ray
from blockenc.datasets.reading import Reading
from blockenc.errors import BlockencError
from blockenc.steps import Np, Rotate, Scramble
from tests import oracle

KEY = blockenc.Key(oracle.KEY)
CIPHER = Cipher(KEY, block_size=4, per_image=True)
ALIKE = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Named = namedtuple("Named", "image label path")


# --- ids out of the sample ---

SAMPLES: list[tuple[str, str | int, list[Any], list[Any]]] = [
    ("dict", "path", [{"image": ALIKE, "path": p} for p in ("a", "b")], ["a", "b"]),
    ("index", 2, [(ALIKE, 5, n) for n in (7, 8)], [7, 8]),
    ("from the end", -1, [(ALIKE, 5, n) for n in (7, 8)], ["7", "8"]),
    ("named tuple", "path", [Named(ALIKE, 0, p) for p in ("a", "b")], [b"a", b"b"]),
    ("deep", "meta.id", [{"image": ALIKE, "meta": {"id": n}} for n in (1, 2)], [1, 2]),
    ("bytes", "id", [{"image": ALIKE, "id": n} for n in (b"\xff", b"\0")], [b"\xff", b"\0"]),
    ("a tensor", 1, [(ALIKE, torch.tensor(n)) for n in (1, 2)], [1, 2]),
    ("NumPy's", 1, [(ALIKE, np.int64(n)) for n in (1, 2)], [1, 2]),
]


@pytest.mark.parametrize(("field", "samples", "ids"), [s[1:] for s in SAMPLES], ids=[s[0] for s in SAMPLES])
def test_ids_come_from_the_sample(field: str | int, samples: list[Any], ids: list[Any]) -> None:
    if isinstance(ids[0], bytes) and field == "id":
        batch = EncryptCollate(CIPHER, ids=field, keep="id")(samples)  # torch does not collate bytes
    else:
        batch = EncryptCollate(CIPHER, ids=field)(samples)
    images = batch["image"] if isinstance(batch, dict) else batch[0]
    assert torch.equal(images, CIPHER.encrypt(torch.stack([ALIKE, ALIKE]), ids=ids))
    assert not torch.equal(images[0], images[1])
    assert torch.equal(CIPHER.decrypt(images, ids=ids)[1], ALIKE)


def test_a_transform_takes_ids_from_the_sample() -> None:
    pytest.importorskip("torchvision")
    transform = blockenc.EncryptTransform(CIPHER, ids="path")
    assert torch.equal(transform({"image": ALIKE, "path": "a"})["image"], CIPHER.encrypt(ALIKE, ids="a"))
    last = blockenc.EncryptTransform(CIPHER, ids=-1)
    assert torch.equal(last((ALIKE, 9, 4))[0], CIPHER.encrypt(ALIKE, ids=4))


def test_an_id_may_come_twice() -> None:
    images = EncryptCollate(CIPHER, ids=1)([(ALIKE, "a"), (ALIKE, "b"), (ALIKE, "a")])[0]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("bad", [1.5, None, True, [1], torch.tensor([1, 2]), torch.tensor(1.0), -1])
def test_ids_of_wrong_types(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^ids\[1\]: expected"):
        EncryptCollate(CIPHER, ids="id", keep="id")([{"image": ALIKE, "id": n} for n in (1, bad)])
    pytest.importorskip("torchvision")
    with pytest.raises((TypeError, ValueError), match=r"^ids"):
        blockenc.EncryptTransform(CIPHER, ids="id", keep="id")({"image": ALIKE, "id": bad})


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("bad", [True, 1.0, ["path"], b"path", "no such field"])
def test_wrong_arguments(which: int, bad: Any) -> None:
    pytest.importorskip("torchvision")
    make: Any = (EncryptCollate, blockenc.EncryptTransform)[which]
    with pytest.raises(TypeError, match=r"^ids: expected the field that holds the id of each image, or DISP"):
        make(CIPHER)
    for ids in ("path", DISPOSABLE):
        with pytest.raises(TypeError, match=r"^ids: goes with a Cipher with per_image=True only"):
            make(Cipher(KEY), ids=ids)
    if isinstance(bad, str):
        sample = {"image": ALIKE}
        with pytest.raises(ValueError, match=f"no field {bad!r}"):
            make(CIPHER, ids=bad)([sample] if which == 0 else sample)
    else:
        with pytest.raises(TypeError, match=r"^ids: expected the position or name of a field, or DISPOSABLE"):
            make(CIPHER, ids=bad)


# --- ids that are thrown away ---


def test_disposable_ids_are_drawn_for_every_image() -> None:
    collate = EncryptCollate(CIPHER, ids=DISPOSABLE)
    first, second = (collate([ALIKE] * 3) for _ in range(2))
    batch = torch.cat((first, second))
    assert len({image.numpy().tobytes() for image in batch}) == 6
    views = collate([{"image": [ALIKE, ALIKE], "label": 1}] * 2)["image"]
    assert len({image.numpy().tobytes() for view in views for image in view}) == 4
    assert repr(DISPOSABLE) == "DISPOSABLE"


def test_disposable_ids_are_what_per_image_keys_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ids known it is the encryption under them: blocks and values are those of the scheme."""
    monkeypatch.setattr("blockenc.loading.ids.secrets.token_bytes", lambda n: bytes(n))
    assert torch.equal(
        EncryptCollate(CIPHER, ids=DISPOSABLE)([ALIKE])[0], CIPHER.encrypt(ALIKE, ids=bytes(16))
    )


def test_a_transform_draws_ids() -> None:
    pytest.importorskip("torchvision")
    transform = blockenc.EncryptTransform(CIPHER, ids=DISPOSABLE)
    assert not torch.equal(transform(ALIKE), transform(ALIKE))
    frames = transform(torch.stack([ALIKE, ALIKE]))
    assert not torch.equal(frames[0], frames[1])
    picture = Image.fromarray(ALIKE.permute(1, 2, 0).numpy())
    assert np.asarray(transform(picture)).tobytes() != np.asarray(transform(picture)).tobytes()


def test_a_transform_pads_what_needs_it() -> None:
    """Also where the cipher derives keys as it goes, by the id or by the size of the image."""
    pytest.importorskip("torchvision")
    wide = torch.zeros(3, 8, 10, dtype=torch.uint8)
    whole = Cipher(KEY, block_size=4, steps=[Scramble(period="image"), "np"])
    for cipher, ids in ((CIPHER, DISPOSABLE), (whole, None)):
        with pytest.warns(UserWarning, match="8 x 10 pixels .* are padded to 8 x 12"):
            assert blockenc.EncryptTransform(cipher, ids=ids)(wide).shape == (3, 8, 12)


def test_workers_draw_ids_of_their_own() -> None:
    """Under fork each would otherwise go on from the same state of a random generator."""
    loader = torch.utils.data.DataLoader(
        [ALIKE] * 8,
        batch_size=2,
        num_workers=2,
        collate_fn=EncryptCollate(CIPHER, ids=DISPOSABLE),
        multiprocessing_context="fork",
    )
    images = [image.numpy().tobytes() for batch in loader for image in batch]
    assert len(set(images)) == 8


# --- on disk ---

ETC = blockenc.Scheme(8, [Scramble(period="image"), Rotate(period="image"), Np(unit="block", period="image")])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """The same picture under several names, and data sets that hold it several times."""
    folder = tmp_path / "src"
    for name in ("a/1.png", "b/1.png", "b/2.bmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(16, 24, 3)).save(folder / name)
    Image.fromarray(noise(16, 24, 4)).save(folder / "alpha.png")
    Image.fromarray(noise(16, 24)).convert("P").save(folder / "palette.png")
    np.save(folder / "x.npy", np.stack([noise(16, 24, 3)] * 3))
    data = io.BytesIO()
    Image.fromarray(noise(16, 24, 3)).save(data, "PNG")
    with tarfile.open(folder / "s.tar", "w") as tar:
        for n in range(2):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
    return folder


def pixels(source: Any) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(image)


def members(path: Path) -> list[np.ndarray]:
    with tarfile.open(path) as tar:
        return [pixels(tar.extractfile(name)) for name in tar.getnames()]


@pytest.mark.parametrize("scheme", [blockenc.Scheme(4), ETC], ids=["shuffle, np, ffx", "whole image"])
def test_every_image_of_a_data_set_has_its_keys(src: Path, tmp_path: Path, scheme: blockenc.Scheme) -> None:
    enc, dec = tmp_path / "enc", tmp_path / "dec"
    encrypt_files(src, enc, KEY, scheme, per_image=True, verify="all")
    assert read_folder(enc).per_image
    cipher, original = Cipher(KEY, scheme, per_image=True), noise(16, 24, 3)
    for source in ("a/1.png", "b/1.png", "b/2.bmp"):
        found = pixels((enc / source).with_suffix(".png"))
        np.testing.assert_array_equal(found, cipher.encrypt(original, ids=source))
    for n, image in enumerate(np.load(enc / "x.npy")):
        np.testing.assert_array_equal(image, cipher.encrypt(original, ids=f"x.npy#{n}"))
    for n, image in enumerate(members(enc / "s.tar")):
        np.testing.assert_array_equal(image, cipher.encrypt(original, ids=f"s.tar#{n}"))
    decrypt_files(enc, dec, KEY)  # nothing but the key
    for name in ("a/1", "b/1", "b/2"):
        np.testing.assert_array_equal(pixels(dec / f"{name}.png"), original)
    np.testing.assert_array_equal(pixels(dec / "alpha.png"), noise(16, 24, 4))
    np.testing.assert_array_equal(pixels(dec / "palette.png"), pixels(src / "palette.png"))
    np.testing.assert_array_equal(np.load(dec / "x.npy"), np.load(src / "x.npy"))
    for image in members(dec / "s.tar"):
        np.testing.assert_array_equal(image, original)
    (dec / "one").mkdir()
    decrypt_files(enc / "b/2.png", dec / "one", KEY)  # one file of it: the id is in the manifest
    np.testing.assert_array_equal(pixels(dec / "one/2.png"), original)


def test_pictures_as_jpeg(src: Path, tmp_path: Path) -> None:
    encrypt_files(
        src / "b/2.bmp", tmp_path / "x.jpg", KEY, ETC, per_image=True, reading=Reading(coding=Jpeg(95))
    )
    decrypt_files(tmp_path / "x.jpg", tmp_path / "y.png", KEY)
    coded = pixels(io.BytesIO(Jpeg(95).encode(noise(16, 24, 3))))
    assert np.abs(pixels(tmp_path / "y.png").astype(int) - coded).mean() < 2


def test_ids_are_paths_and_numbers() -> None:
    assert Item("a.png", "b/a.jpg", "image", Pictures([])).image_id(0) == b"b/a.jpg"
    assert Item("a.npy", "a.npy", "numpy", Pictures([])).image_id(12) == b"a.npy#12"
    odd = b"\xff.npy".decode(errors="surrogateescape")
    assert Item(odd, odd, "numpy", Pictures([])).image_id(0) == b"\xff.npy#0"


def test_a_folder_has_keys_of_one_sort(src: Path, tmp_path: Path) -> None:
    for n, per_image in enumerate((True, False)):
        encrypt_files(src, tmp_path / f"{n}", KEY, blockenc.Scheme(4), per_image=per_image)
        with pytest.raises(ManifestError, match=r"\(--per-image\); give another DST"):
            encrypt_files(src, tmp_path / f"{n}", KEY, blockenc.Scheme(4), per_image=not per_image)


def test_ray_has_no_key(src: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for scheme, per_image in ((blockenc.Scheme(4), True), (ETC, False)):
        with pytest.raises(BlockencError, match="--engine ray: workers have no key, and keys for each image"):
            encrypt_files(src, tmp_path / "enc", KEY, scheme, per_image=per_image, engine=in_ray())
        assert not (tmp_path / "enc").exists()


def test_the_command_line(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.PASSWORD_VARIABLE, "password")
    monkeypatch.setattr("blockenc.keys.keyfile.SCRYPT_N", 2**10)
    KEY.save(tmp_path / "key", "password")

    def run(*args: object) -> str:
        result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
        assert result.exit_code == 0, result.output
        return result.output

    run("encrypt", src, tmp_path / "enc", "--key", tmp_path / "key", "--per-image")
    assert "one for each image, by its path" in run("inspect", tmp_path / "enc")
    assert not np.array_equal(pixels(tmp_path / "enc/a/1.png"), pixels(tmp_path / "enc/b/1.png"))
    run("decrypt", tmp_path / "enc", tmp_path / "dec", "--key", tmp_path / "key")
    np.testing.assert_array_equal(pixels(tmp_path / "dec/a/1.png"), noise(16, 24, 3))
