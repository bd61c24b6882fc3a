"""The command line: round trips, and one line of error, with nothing left behind, for every mistake."""

from __future__ import annotations

import errno
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import blockenc
from blockenc import files, schemes
from blockenc import keys as keys_package
from blockenc.cli import app as cli
from blockenc.datasets import engine
from blockenc.datasets.manifest import MAX_LINE, Manifest
from blockenc.text import printable

PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good.key, its password in good.txt, and other.key under the same password."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("good", "other"):
        blockenc.Key.generate().save(folder / f"{name}.key", PASSWORD)
    (folder / "good.txt").write_text(f"{PASSWORD}\nsecond line\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick_keys(keys: Path):
    """Loading a key costs half a second of scrypt: the two of these tests are opened once each."""
    opened = {str(path): blockenc.Key.load(path, PASSWORD) for path in keys.glob("*.key")}
    load = keys_package.load_key

    def quick(path, password):
        known = opened.get(str(path)) if password == PASSWORD else None
        return known or load(path, password)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_package, "load_key", quick)
        yield


@pytest.fixture(autouse=True)
def password_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.PASSWORD_VARIABLE, PASSWORD)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small tree of PNGs, one for each channel count, of sizes that 4 divides."""
    src = tmp_path / "photos"
    for name, shape in {"a.png": (8, 12, 3), "deep/er/b.png": (16, 4), "deep/c.PNG": (4, 8, 4)}.items():
        save(src / name, shape)
    return src


def save(path: Path, shape: tuple[int, ...], **options) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def tree(folder: Path) -> set[str]:
    """Every file and folder below, hidden ones included."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def run(*args: object) -> str:
    """The output of a run that must succeed."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*args: object, says: str, code: int = 1) -> str:
    """A run that must fail with one line on stderr, no traceback, and no password."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert says in result.stderr
    assert PASSWORD not in result.output
    if code == 1:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    return result.stderr


def python_m(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blockenc", *map(str, args)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=100,
        check=False,
    )


# --- what works ---


@pytest.mark.parametrize("options", [(), ("--block-size", 2, "--steps", "np,shuffle", "--backend", "aten")])
def test_a_tree_comes_back_identical(photos: Path, tmp_path: Path, keys: Path, options: tuple):
    (photos / "notes.txt").write_text("not an image")
    (photos / ".hidden.png").write_text("not an image either")
    enc, dec = tmp_path / "enc", tmp_path / "dec"
    said = run("encrypt", photos, enc, "--key", keys / "good.key", *options)
    assert "encrypted 3 images" in said
    assert "1 other files left out" in said
    images = {"a.png", "deep", "deep/er", "deep/er/b.png", "deep/c.png"}
    assert tree(enc) == images | {"blockenc.json"}
    assert "decrypted 3 images" in run("decrypt", enc, dec, "--key", keys / "good.key")
    assert tree(dec) == images
    for source, name in (("a.png", "a.png"), ("deep/er/b.png",) * 2, ("deep/c.PNG", "deep/c.png")):
        with Image.open(photos / source) as image:
            plain = np.asarray(image.convert("RGB"))
        colours = pixels(enc / name)[..., :3]  # alpha is beside them
        assert colours.shape == plain.shape
        assert (colours != plain).any()
        np.testing.assert_array_equal(pixels(dec / name), pixels(photos / source))


def test_the_files_hold_what_the_library_computes(photos: Path, tmp_path: Path, keys: Path):
    run("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key", "--block-size", 2)
    key = blockenc.Key.load(keys / "good.key", PASSWORD)
    expected = blockenc.encrypt(pixels(photos / "a.png"), key, block_size=2)
    np.testing.assert_array_equal(pixels(tmp_path / "enc/a.png"), expected)


def test_one_image_to_a_file_and_back(photos: Path, tmp_path: Path, keys: Path):
    out = tmp_path / "new" / "x.png"
    run("encrypt", photos / "a.png", out, "--key", keys / "good.key")
    assert tree(out.parent) == {"x.png", "x.png.json"}
    run("decrypt", out, tmp_path / "y.png", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), pixels(photos / "a.png"))


@pytest.mark.skipif(os.name != "posix", reason="names that other systems forbid")
def test_odd_names(tmp_path: Path, keys: Path):
    names = ("12:30.png", "back\\slash.png", "[bold]x.png", "two  words\n.png", "ü.png", "..a.b.png")
    image = save(tmp_path / "photos/x.png", (4, 4, 3))
    for name in names[:-1]:
        shutil.copy(tmp_path / "photos/x.png", tmp_path / "photos" / name)
    run("encrypt", tmp_path / "photos", tmp_path / "enc", "--key", keys / "good.key")
    assert "[bold]x.png" in run("inspect", tmp_path / "enc/[bold]x.png")
    run("decrypt", tmp_path / "enc", tmp_path / "dec", "--key", keys / "good.key")
    assert tree(tmp_path / "dec") == tree(tmp_path / "photos")
    run("encrypt", tmp_path / "photos/x.png", tmp_path / "X.PNG", "--key", keys / "good.key")
    run("decrypt", tmp_path / "X.PNG", tmp_path / names[-1], "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / names[-1]), image)


def test_a_decompression_bomb_is_refused(photos: Path, tmp_path: Path, keys: Path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key", says="decompression bomb")


def test_animations_are_refused(tmp_path: Path, keys: Path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    refused(
        "encrypt", tmp_path / "a.webp", tmp_path / "e", "--key", keys / "good.key", says="a.webp: several"
    )


def test_one_image_to_a_folder_and_one_out_of_a_tree(photos: Path, tmp_path: Path, keys: Path):
    run("encrypt", photos / "a.png", tmp_path / "one", "--key", keys / "good.key")
    assert tree(tmp_path / "one") == {"a.png", "blockenc.json"}
    run("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key")
    run("decrypt", tmp_path / "enc/deep/er/b.png", tmp_path / "dec", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "dec/b.png"), pixels(photos / "deep/er/b.png"))


@pytest.mark.parametrize("shape", [(9, 14, 3), (5, 4), (3, 7, 4)])
def test_padding_repeats_the_edge_and_is_undone(tmp_path: Path, keys: Path, shape: tuple):
    image = save(tmp_path / "in.png", shape)
    options = ("--fit", "pad", "--mode", "keep")
    run("encrypt", tmp_path / "in.png", tmp_path / "x.png", "--key", keys / "good.key", *options)
    encrypted = pixels(tmp_path / "x.png")
    assert encrypted.shape[:2] == tuple(-(-n // 4) * 4 for n in shape[:2])
    key = blockenc.Key.load(keys / "good.key", PASSWORD)
    stacked = encrypted if encrypted.ndim == 3 else encrypted[:, :, None]
    assert (blockenc.decrypt(stacked, key)[-1, -1] == image[-1, -1]).all()
    run("decrypt", tmp_path / "x.png", tmp_path / "y.png", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), image)


def test_cropping_loses_the_right_and_bottom(tmp_path: Path, keys: Path):
    image = save(tmp_path / "in.png", (9, 14, 3))
    run("encrypt", tmp_path / "in.png", tmp_path / "x.png", "--key", keys / "good.key", "--fit", "crop")
    run("decrypt", tmp_path / "x.png", tmp_path / "y.png", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), image[:8, :12])


@pytest.mark.parametrize("mode, channels", [("rgb", 3), ("keep", 1)])
def test_mode(tmp_path: Path, keys: Path, mode: str, channels: int):
    image = save(tmp_path / "in.png", (8, 12))
    run("encrypt", tmp_path / "in.png", tmp_path / "x.png", "--key", keys / "good.key", "--mode", mode)
    assert np.atleast_3d(pixels(tmp_path / "x.png")).shape == (8, 12, channels)
    run("decrypt", tmp_path / "x.png", tmp_path / "y.png", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), image)


def test_what_8_bits_would_lose_is_refused_or_named(tmp_path: Path, keys: Path):
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(wide).save(tmp_path / "wide.png")
    arguments = ("encrypt", tmp_path / "wide.png", tmp_path / "x.png", "--key", keys / "good.key")
    assert "--convert" in refused(*arguments, says="wide.png: more than 8 bits")
    run(*arguments, "--convert")
    run("decrypt", tmp_path / "x.png", tmp_path / "y.png", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), wide >> 8)


def test_resize_crop_copy_and_metadata(tmp_path: Path, keys: Path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    save(tmp_path / "in/a.png", (40, 60, 3), exif=exif)
    (tmp_path / "in/b.gif").write_bytes(b"GIF89a")
    arguments = ("encrypt", tmp_path / "in", tmp_path / "x", "--key", keys / "good.key")
    said = run(*arguments, "--resize", "20", "--crop", "16x12", "--copy", "*.gif")
    assert pixels(tmp_path / "x/a.png").shape == (12, 16, 3)
    assert (tmp_path / "x/b.gif").read_bytes() == b"GIF89a"
    assert "1 copied unencrypted" in said
    assert "metadata (EXIF, colour profile, text) of 1 left out" in said
    refused(*arguments, "--resize", "big", says="resize: expected N or WxH")


def test_encrypting_again_overwrites_and_extends(photos: Path, tmp_path: Path, keys: Path):
    enc = tmp_path / "enc"
    run("encrypt", photos, enc, "--key", keys / "good.key")
    shutil.rmtree(photos / "deep")
    save(photos / "new.png", (4, 4, 3))
    run("encrypt", photos, enc, "--key", keys / "good.key")
    run("decrypt", enc, tmp_path / "dec", "--key", keys / "good.key")
    assert {"a.png", "new.png", "deep/er/b.png"} <= tree(tmp_path / "dec")


def test_inspect(photos: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(cli.PASSWORD_VARIABLE)
    fingerprint = blockenc.Key.load(keys / "good.key", PASSWORD).fingerprint
    shutil.copy(keys / "good.key", tmp_path / "k.key")
    said = run("inspect", tmp_path / "k.key")
    assert fingerprint in said
    assert "scrypt" in said
    assert "warning" not in said
    (tmp_path / "k.key").chmod(0o644)
    assert "warning" in run("inspect", tmp_path / "k.key")

    enc = tmp_path / "enc"
    monkeypatch.setenv(cli.PASSWORD_VARIABLE, PASSWORD)
    run("encrypt", photos, enc, "--key", keys / "good.key")
    for path in (enc, enc / "blockenc.json"):
        said = run("inspect", path)
        assert fingerprint in said
        assert "12 x 8 x 3" in said
    assert "not known" in run("inspect", photos / "a.png")
    assert fingerprint in run("inspect", enc / "deep/er/b.png")
    for name in blockenc.backends():
        assert name in run("inspect")


WEIGHTS = {"a.weight": torch.arange(60_000.0).view(200, 300), "a.bias": torch.ones(200)}


def test_seal_and_verify(tmp_path: Path, keys: Path):
    library = pytest.importorskip("safetensors.torch")
    file, key = tmp_path / "m.safetensors", ("--key", keys / "good.key")
    library.save_file(WEIGHTS, file)
    fingerprint = blockenc.Key.load(keys / "good.key", PASSWORD).fingerprint
    assert run("seal", file, *key) == (f"sealed 2 tensors (0.24 MB) with key {fingerprint} to {file}.seal\n")
    assert run("verify", file, *key) == f"{file}: intact: 2 tensors, 240800 bytes, key {fingerprint}\n"
    assert json.loads(run("verify", file, *key, "--json"))["intact"] is True
    shown = " ".join(run("inspect", f"{file}.seal").split())
    for text in ("seal of a safetensors file", fingerprint, "2, of 240800 bytes", "5, of 65536 bytes"):
        assert text in shown
    refused("seal", file, *key, says="exists already")
    run("seal", file, *key, "--force", "--chunk", 1)
    refused("verify", file, "--key", keys / "other.key", says=f"sealed with the key {fingerprint}")
    refused("verify", file, *key, "--seal", tmp_path / "none", says=f"{tmp_path}/none: No such file")
    refused("verify", tmp_path / "none", *key, says=f"{tmp_path}/none: no such file")
    refused("seal", tmp_path / "none", *key, says=f"{tmp_path}/none: no such file")
    refused("seal", keys / "good.txt", *key, "--output", tmp_path / "s", says="not a safetensors file")
    refused("seal", file, *key, "--output", tmp_path / "no/s", says=f"{tmp_path}/no/s: No such file")

    library.save_file({**WEIGHTS, "a.bias": torch.full((200,), 2.0), "\x1b[1m": torch.ones(1)}, file)
    for options in ((), ("--json",)):
        result = CliRunner().invoke(cli.app, ["verify", str(file), *map(str, key), *options])
        assert result.exit_code == 1
        assert result.stderr == ""
        assert "\x1b" not in result.stdout
    found = json.loads(result.stdout)
    assert [(d["kind"], d["tensor"]) for d in found["differences"]] == [
        ("added", "\x1b[1m"), ("changed", "a.bias"),
    ]  # fmt: skip
    file.write_bytes(file.read_bytes()[:-1])
    refused("verify", file, *key, says="damaged safetensors file")


def test_a_protected_model_tells_its_scheme_and_key(tmp_path: Path, keys: Path):
    library = pytest.importorskip("safetensors.torch")
    key = blockenc.Key.load(keys / "good.key", PASSWORD)
    file = tmp_path / "m.safetensors"
    cipher = blockenc.Cipher(key, schemes.VIT())
    blockenc.nn.save_protected(torch.nn.Linear(3, 2), file, cipher)
    shown = " ".join(run("inspect", file).split())
    for text in ("weights", "2, of 32 bytes", "F32", key.fingerprint, "VIT", "shuffle", "blockenc 0.1.0"):
        assert text in shown
    library.save_file(WEIGHTS, file)
    assert "not known: nothing in its metadata" in run("inspect", file)
    for scheme in ("[" * 100_000, '{"version": 3}', "\x1b[1m", "{}"):
        said = {"blockenc.fingerprint": "\x1b[1m" * 9, "blockenc.scheme": scheme}
        library.save_file(WEIGHTS, file, said)
        assert "\x1b" not in run("inspect", file)
    file.write_bytes(b"no weights")
    refused("inspect", file, says="not a safetensors file")


def test_data_sets(tmp_path: Path, keys: Path):
    """Formats, shards and verification from the command line, and what inspect says of them."""
    (tmp_path / "src").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    for name in "abc":
        np.save(tmp_path / f"src/{name}.npy", images)
    enc, args = tmp_path / "enc", ("--key", keys / "good.key")
    said = run("encrypt", tmp_path / "src", enc, *args, "--shard", "0/2", "--verify", "all", "--workers", 1)
    assert "encrypted 12 images" in said
    refused("decrypt", enc, tmp_path / "dec", *args, says="no manifest of shard 1")
    run("encrypt", tmp_path / "src", enc, *args, "--shard", "1/2", "--verify", "sample")
    said = run("inspect", enc)
    assert "3 numpy" in said
    assert "18 of 8 x 8 x 3" in said
    assert "a.npy, 6 images" in run("inspect", enc / "a.npy")
    run("decrypt", enc, tmp_path / "dec", *args)
    for name in "abc":
        np.testing.assert_array_equal(np.load(tmp_path / f"dec/{name}.npy"), images)


def test_ray_is_named_where_it_is_missing(photos: Path, tmp_path: Path, keys: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as an import that fails
    args = ("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key")
    refused(*args, "--engine", "ray", says="pip install 'blockenc[ray]'")


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = types.SimpleNamespace(run=lambda output: output / "report.html")
    monkeypatch.setitem(sys.modules, "blockenc.demo", fake)
    assert run("demo", "--output", tmp_path) == f"report: {tmp_path / 'report.html'}\n"
    monkeypatch.setitem(sys.modules, "blockenc.demo", None)  # as an import that fails
    refused("demo", says="pip install 'blockenc[demo]'")


def test_the_module_runs(tmp_path: Path, keys: Path, photos: Path):
    key = tmp_path / "new.key"
    made = python_m("keygen", key, "--password-file", keys / "good.txt", BLOCKENC_PASSWORD="not this one")
    assert made.returncode == 0, made.stderr
    assert key.stat().st_mode & 0o777 == 0o600
    assert blockenc.Key.load(key, PASSWORD).fingerprint in made.stdout
    failed = python_m("encrypt", photos, tmp_path / "enc", "--key", key, BLOCKENC_PASSWORD="wrong guess")
    assert failed.returncode == 1
    assert failed.stderr == f"error: {key}: wrong password, or the key file was altered\n"
    assert "wrong guess" not in failed.stdout
    done = python_m("encrypt", photos, tmp_path / "enc", "--key", key)
    assert (done.returncode, done.stderr) == (0, "")
    assert python_m("--version").stdout == f"blockenc {blockenc.__version__}\n"


# --- passwords and keys ---


def test_the_prompt_asks_twice_in_keygen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(cli.PASSWORD_VARIABLE)
    monkeypatch.setattr(cli, "_at_terminal", lambda: True)
    result = CliRunner().invoke(cli.app, ["keygen", str(tmp_path / "k")], input="typed\ntyped\n")
    assert result.exit_code == 0
    assert "typed" not in result.output
    assert blockenc.Key.load(tmp_path / "k", "typed")


def test_no_password_to_be_had(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(cli.PASSWORD_VARIABLE)
    refused("keygen", tmp_path / "k", says="no terminal to ask at")
    (tmp_path / "empty").write_text("\n")
    refused("keygen", tmp_path / "k", "--password-file", tmp_path / "empty", says="got none")
    (tmp_path / "latin").write_bytes(b"secr\xe9t\n")
    said = refused("keygen", tmp_path / "k", "--password-file", tmp_path / "latin", says="not UTF-8")
    assert "secr" not in said
    refused("keygen", tmp_path / "k", "--password-file", tmp_path / "none", says="none: No such file")
    assert not (tmp_path / "k").exists()


def test_keygen_overwrites_only_when_forced(tmp_path: Path):
    path = tmp_path / "k"
    path.write_text("precious")
    refused("keygen", path, says="--force")
    assert path.read_text() == "precious"
    run("keygen", path, "--force")
    refused("keygen", tmp_path, "--force", says="exists already")
    refused("keygen", tmp_path / "no/k", says="no such folder")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_errors_name_what_was_asked_for_not_a_temporary_file(photos: Path, tmp_path: Path, keys: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    refused("keygen", tmp_path / "closed/k", says="closed/k: Permission denied")
    args = ("--key", keys / "good.key")
    refused("encrypt", photos, tmp_path / "closed", *args, says=".blockenc-run: Permission denied")
    refused("encrypt", photos, tmp_path / "closed/enc", *args, says="closed/enc: Permission denied")


def test_a_key_set_is_a_key(photos: Path, tmp_path: Path):
    path = tmp_path / "three.key"
    said = run("keygen", path, "--set")
    keys = keys_package.load_key(path, PASSWORD)
    assert said == f"wrote key set {keys.fingerprint} to {path}\n"
    assert "key-set file" in run("inspect", path)
    run("encrypt", photos, tmp_path / "enc", "--key", path)
    run("decrypt", tmp_path / "enc", tmp_path / "dec", "--key", path)
    for name in ("a.png", "deep/er/b.png", "deep/c.png"):
        source = photos / name.replace("c.png", "c.PNG")
        assert np.array_equal(pixels(tmp_path / "dec" / name), pixels(source))


def test_a_wrong_key_is_told_before_anything_is_written(photos: Path, tmp_path: Path, keys: Path):
    enc = tmp_path / "enc"
    run("encrypt", photos, enc, "--key", keys / "good.key")
    said = refused(
        "decrypt", enc, tmp_path / "dec", "--key", keys / "other.key", says="encrypted with the key"
    )
    for name in ("good.key", "other.key"):
        assert blockenc.Key.load(keys / name, PASSWORD).fingerprint in said
    assert not (tmp_path / "dec").exists()
    before = {path: path.read_bytes() for path in enc.rglob("*.*")}
    refused("encrypt", photos, enc, "--key", keys / "other.key", says="encrypted with the key")
    refused("encrypt", photos, enc, "--key", keys / "good.key", "--steps", "np", says="another scheme or fit")
    assert before == {path: path.read_bytes() for path in enc.rglob("*.*")}


@pytest.mark.parametrize(
    "options, scheme", [(("LE",), schemes.LE()), (("ETC", "--block-size", 8), schemes.ETC(8))]
)
def test_published_schemes_by_name(
    photos: Path, tmp_path: Path, keys: Path, options: tuple, scheme: blockenc.Scheme
):
    image, args = save(tmp_path / "x.png", (16, 24, 3)), ("--key", keys / "good.key")
    enc = tmp_path / "enc.png"
    run("encrypt", tmp_path / "x.png", enc, *args, "--scheme", *options)
    key = blockenc.Key.load(keys / "good.key", PASSWORD)
    np.testing.assert_array_equal(pixels(enc), blockenc.encrypt(image, key, scheme=scheme))
    run("decrypt", enc, tmp_path / "dec.png", *args)
    np.testing.assert_array_equal(pixels(tmp_path / "dec.png"), image)
    shown = run("inspect", enc)
    assert re.search(rf"scheme +. {options[0]} ", shown)
    if options[0] == "ETC":
        assert "scramble:period=image, rotate:period=image" in shown
    (tmp_path / "enc.png.json").unlink()
    result = CliRunner().invoke(
        cli.app,
        [str(arg) for arg in ("decrypt", enc, tmp_path / "again.png", *args, "--scheme", *options)],
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(pixels(tmp_path / "again.png"), image)


# --- mistakes: one line, and nothing is written ---


def test_positions_that_an_image_does_not_have(photos: Path, tmp_path: Path, keys: Path):
    """photos/a.png has 2 x 3 blocks, deep/c.PNG 2 of them: told before anything is written, by name."""
    steps = ("--key", keys / "good.key", "--steps", "scramble:period=image:fixed=1,np")
    refused("encrypt", photos, tmp_path / "enc", *steps, says="c.PNG: fixed: expected 0, or at most 0 of 2")
    assert not (tmp_path / "enc").exists()
    run("encrypt", photos / "a.png", tmp_path / "a.png", *steps)


@pytest.mark.parametrize(
    "options, says",
    [
        (("--steps", "shuffle,rot13"), "rot13"),
        (("--steps", ","), "expected at least one of"),
        (
            ("--scheme", "AES"),
            "scheme: expected one of SHF, NP, FFX, LE, ELE, ETC, PE, VIT, VIT_ETC, got 'AES'",
        ),
        (("--scheme", "LE", "--steps", "np"), "--scheme: stands for its steps"),
        (("--scheme", "FFX", "--ffx", "decimal"), "goes without --steps and --ffx"),
        (("--scheme", "PE", "--block-size", "4"), "block_size: expected none for the scheme PE, got 4"),
        (("--block-size", "0"), "at least 1"),
        (("--block-size", "3"), "not a multiple of the block size 3 (and 2 more images)"),
        (("--block-size", "32", "--fit", "crop"), "too small"),
        (("--block-size", "1000000"), "block_size"),
        (("--ffx", "decimal"), "PNG files hold bytes"),
        (("--backend", "abacus"), "abacus"),
        (("--shard", "2/2"), "from 0 to n - 1"),
        (("--shard", "half"), "expected I/N"),
        (("--shard", "1/99999999999999999999"), "shard: expected at most 1000000 shards"),
        (("--resize", "3x4x5"), "resize: expected N or WxH"),
        (("--crop", "3x"), "crop: expected N or WxH"),
        (("--crop", "\u00b2"), "crop: expected N or WxH"),
        (("--resize", "1" + "0" * 30), "resize: expected a length or (width, height) of 1 to"),
        (("--resize", "9" * 5000), "resize: expected N or WxH"),
        (("--ray-address", "auto"), "goes with --engine ray"),
    ],
)
def test_bad_options(photos: Path, tmp_path: Path, keys: Path, options: tuple, says: str):
    refused("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key", *options, says=says)
    assert not (tmp_path / "enc").exists()


@pytest.mark.parametrize(
    "option", [("--fit", "stretch"), ("--block-size", "four"), ("--ffx", "octal"), ("--workers", "0")]
)
def test_wrong_usage(photos: Path, tmp_path: Path, keys: Path, option: tuple):
    refused("encrypt", photos, tmp_path / "e", "--key", keys / "good.key", *option, says=option[0], code=2)


@pytest.mark.parametrize(
    "error", [OverflowError("x"), KeyError("x"), RecursionError("x"), NotImplementedError("x")]
)
def test_what_nobody_foresaw_is_one_line(
    photos: Path, tmp_path: Path, keys: Path, monkeypatch, error: Exception
):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr("blockenc.datasets.engine.encrypt_files", fails)
    says = f"error: {type(error).__name__}: "
    refused("encrypt", photos, tmp_path / "e", "--key", keys / "good.key", says=says)


def test_bad_key_files(photos: Path, tmp_path: Path, keys: Path):
    refused("encrypt", photos, tmp_path / "enc", "--key", tmp_path / "no.key", says="no.key: No such file")
    refused("encrypt", photos, tmp_path / "enc", "--key", photos / "a.png", says="not a blockenc key file")
    refused("inspect", photos / "none.key", says="No such file")
    (tmp_path / "cut.key").write_bytes((keys / "good.key").read_bytes()[:99])
    refused("inspect", tmp_path / "cut.key", says="damaged")


def damage(photos: Path, kind: str) -> None:
    if kind == "text":
        (photos / "deep/bad.jpg").write_text("this is no image")
    elif kind == "empty":
        (photos / "deep/bad.jpg").touch()
    else:
        save(photos / "deep/bad.png", (64, 64, 3))
        path = photos / "deep/bad.png"
        path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_damaged_sources(photos: Path, tmp_path: Path, keys: Path, kind: str):
    """What headers tell, before anything is written; else what is finished stays, for the next run."""
    damage(photos, kind)
    out = tmp_path / "out/enc"
    refused("encrypt", photos, out, "--key", keys / "good.key", says="deep/bad.")
    assert (tmp_path / "out").exists() == (kind == "truncated")
    assert not (out / "blockenc.json").exists()
    assert not (out / "deep/bad.png").exists()
    for path in (photos / "deep").glob("bad.*"):
        path.unlink()
    run("encrypt", photos, out, "--key", keys / "good.key")
    assert tree(out) == {"a.png", "deep", "deep/er", "deep/er/b.png", "deep/c.png", "blockenc.json"}


def test_nothing_stays_of_a_run_that_did_nothing(tmp_path: Path, keys: Path):
    (tmp_path / "photos/deep").mkdir(parents=True)
    damage(tmp_path / "photos", "truncated")
    refused("encrypt", tmp_path / "photos", tmp_path / "out/enc", "--key", keys / "good.key", says="bad.png")
    assert not (tmp_path / "out").exists()


def test_bad_places(photos: Path, tmp_path: Path, keys: Path):
    def encrypt(src: Path, dst: Path, says: str) -> None:
        before = tree(tmp_path)
        refused("encrypt", src, dst, "--key", keys / "good.key", says=says)
        assert tree(tmp_path) == before

    file = tmp_path / "file"
    file.write_text("in the way")
    (tmp_path / "empty").mkdir()
    encrypt(tmp_path / "none", tmp_path / "enc", "no such file or folder")
    encrypt(tmp_path / "empty", tmp_path / "enc", "no images here")
    encrypt(photos, file, "not a folder")
    encrypt(photos, file / "below", "file")
    encrypt(photos, photos, "apart")
    encrypt(photos, photos / "enc", "apart")
    encrypt(photos / "deep", photos, "apart")
    encrypt(photos / "a.png", photos / "a.png", "SRC itself")
    encrypt(photos / "a.png", photos, "SRC itself")
    encrypt(photos / "a.png", photos / "deep/c.PNG", "not overwritten without --force")
    (tmp_path / "blocked/a.png").mkdir(parents=True)
    encrypt(photos, tmp_path / "blocked", "is a folder")
    save(photos / "a.jpg", (8, 8, 3))
    encrypt(photos, tmp_path / "enc", "would both become a.png")


def test_the_disk_fills_up(photos: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch):
    enc = tmp_path / "enc"
    run("encrypt", photos / "a.png", enc, "--key", keys / "good.key")
    before = {path: path.read_bytes() for path in enc.iterdir()}
    written = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    for place in (enc, tmp_path / "other"):
        refused("encrypt", photos, place, "--key", keys / "good.key", says="No space left on device")
    assert before == {path: path.read_bytes() for path in before}
    assert not (tmp_path / "other/blockenc.json").exists()
    refused("keygen", tmp_path / "k", says="No space left on device")
    assert tree(tmp_path) - tree(photos) >= {"enc/a.png"}
    assert not [name for name in tree(tmp_path) if "tmp" in name or name.startswith("k")]
    monkeypatch.undo()
    monkeypatch.setenv(cli.PASSWORD_VARIABLE, PASSWORD)
    run("encrypt", photos, tmp_path / "other", "--key", keys / "good.key")
    run("decrypt", tmp_path / "other", tmp_path / "dec", "--key", keys / "good.key")
    np.testing.assert_array_equal(pixels(tmp_path / "dec/deep/c.png"), pixels(photos / "deep/c.PNG"))


def test_control_c_is_quiet(photos: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(done, total):
        next(iter(done))
        raise KeyboardInterrupt

    progress = cli.tracked
    monkeypatch.setattr(cli, "tracked", lambda label: interrupted)
    args = ["encrypt", str(photos), str(tmp_path / "enc"), "--key", str(keys / "good.key")]
    result = CliRunner().invoke(cli.app, args)
    assert (result.exit_code, result.output) == (130, "")
    assert not (tmp_path / "enc/blockenc.json").exists()
    refused("decrypt", tmp_path / "enc", tmp_path / "dec", *args[3:], says="not finished")
    monkeypatch.setattr(cli, "tracked", progress)
    assert "were done before" in run(*args)
    run("decrypt", tmp_path / "enc", tmp_path / "dec", *args[3:])


# --- manifests ---


def test_a_missing_manifest(photos: Path, tmp_path: Path, keys: Path):
    refused("decrypt", photos, tmp_path / "dec", "--key", keys / "good.key", says="no blockenc.json")
    refused("decrypt", photos / "a.png", tmp_path / "dec", "--key", keys / "good.key", says="a.png.json")
    refused("inspect", photos, says="no blockenc.json")
    assert not (tmp_path / "dec").exists()


def laid_out(fields: dict, key: Path) -> str:
    """As manifests are written: one line an item; of version 3, with the tag that the key gives."""
    fields = {name: value for name, value in fields.items() if name != "mac"}
    if not isinstance(fields.get("items"), dict):
        return json.dumps(fields)
    head = json.dumps({name: value for name, value in fields.items() if name != "items"}, indent=1)[:-2]
    items = [f"  {json.dumps(name)}: {json.dumps(item)}" for name, item in sorted(fields["items"].items())]
    text = head + ',\n "items": {\n' + ",\n".join(items) + "\n }"
    if fields["version"] == 2:
        return text + "\n}\n"
    text += ",\n"
    mac_key = blockenc.Key.load(key, PASSWORD).mac_key("blockenc/manifest")
    return text + f' "mac": "{hmac.digest(mac_key, text.encode(), "sha256").hex()}"\n}}\n'


def rename_item(fields: dict, name: str) -> None:
    fields["items"][name] = fields["items"].pop("a.png")


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda fields: fields.update(format="other"), "not a blockenc manifest"),
        (lambda fields: fields.update(version=4), "version 4"),
        (lambda fields: fields.update(version=2.0), "version 2.0"),
        (lambda fields: fields.update(shard=[0, 2]), "of another shard"),
        (lambda fields: fields.pop("items"), "damaged manifest"),
        (lambda fields: fields.update(items=[]), "damaged manifest"),
        (lambda fields: fields.update(scheme={"block_size": "four"}), "damaged manifest"),
        (lambda fields: fields.update(fit="stretch"), "damaged manifest"),
        (lambda fields: fields["items"]["a.png"].update(width=-1), "damaged manifest"),
        (lambda fields: fields["items"]["a.png"].update(channels=2), "damaged manifest"),
        (lambda fields: fields["items"]["a.png"].pop("sha256"), "damaged manifest"),
        (lambda fields: rename_item(fields, "../a.png"), "damaged manifest"),
        (lambda fields: rename_item(fields, "/a.png"), "damaged manifest"),
        (lambda fields: rename_item(fields, "a.sh"), "damaged manifest"),
        (lambda fields: rename_item(fields, "gone.png"), "missing"),
        (lambda fields: fields["items"]["a.png"].update(width=16), "altered"),
        (lambda fields: fields["items"]["a.png"].update(sha256="0"), "altered"),
    ],
)
def test_a_damaged_manifest(photos: Path, tmp_path: Path, keys: Path, change, says: str):
    enc = tmp_path / "enc"
    run("encrypt", photos, enc, "--key", keys / "good.key")
    manifest = enc / "blockenc.json"
    fields = json.loads(manifest.read_text())
    assert laid_out(fields, keys / "good.key") == manifest.read_text()
    change(fields)
    manifest.write_text(laid_out(fields, keys / "good.key"))
    refused("decrypt", enc, tmp_path / "dec", "--key", keys / "good.key", says=says)
    assert (tmp_path / "dec").exists() == (says == "altered")  # which is found when the others are done
    assert not (tmp_path / "dec/a.png").exists()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda text: text[:200], "not JSON"),
        (lambda text: json.dumps(json.loads(text)), "laid out in lines"),
        (lambda text: text[:-2], "no tag at its end"),
        (lambda text: text + " ", "no tag at its end"),
        (lambda text: text[: text.index("deep")], "cut off"),
        (lambda text: text.replace('"mac": "', '"mac": "0'), "no tag at its end"),
        (lambda text: text.replace('"fingerprint": "', '"fingerprint": "0'), "fingerprint or fit"),
        (lambda text: text.replace("{", "{" + " " * (1 << 20), 1), "not JSON"),
        (lambda text: text.replace('"a.png":', '"a.png":' + " " * MAX_LINE), "a line is too long"),
    ],
)
def test_a_manifest_that_is_not_whole(photos: Path, tmp_path: Path, keys: Path, change, says: str):
    enc = tmp_path / "enc"
    run("encrypt", photos, enc, "--key", keys / "good.key")
    manifest = enc / "blockenc.json"
    (enc / "z.png").write_bytes((enc / "a.png").read_bytes())
    text = manifest.read_text()
    assert change(text) != text
    manifest.write_text(change(text))
    refused("decrypt", enc, tmp_path / "dec", "--key", keys / "good.key", says=says)
    assert not (tmp_path / "dec").exists()


def test_decrypt_overwrites_only_when_forced(photos: Path, tmp_path: Path, keys: Path):
    run("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key")
    before = (photos / "a.png").read_bytes()
    refused("decrypt", tmp_path / "enc", photos, "--key", keys / "good.key", says="--force")
    assert (photos / "a.png").read_bytes() == before
    run("decrypt", tmp_path / "enc", photos, "--key", keys / "good.key", "--force")


def test_a_manifest_says_nothing_secret_and_round_trips(photos: Path, tmp_path: Path, keys: Path):
    run("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key", "--fit", "pad")
    path = tmp_path / "enc/blockenc.json"
    fields = json.loads(path.read_text())
    assert set(fields) == {"format", "version", "scheme", "fingerprint", "fit", "reading", "items", "mac"}
    assert fields["reading"] == {"mode": "rgb", "resize": None, "crop": None}
    assert fields["scheme"] == {
        "block_size": 4, "steps": ["shuffle", "np", "ffx"], "ffx": "byte", "version": 1,
    }  # fmt: skip
    assert fields["items"]["deep/c.png"]["source"] == "deep/c.PNG"
    manifest = Manifest.read(path)
    key = blockenc.Key.load(keys / "good.key", PASSWORD)
    manifest.write(tmp_path / "again.json", manifest.items(), key)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


# --- what is shown, and what is not ---

EVIL = "\x1b]0;owned\x07\x9b31m\u202egnp.x"  # sets the title, the colour, and the direction of writing
UNPRINTABLE = "\x1b\x07\x9b\u202e"


@pytest.mark.parametrize("text, shown", [
    ("a b.png", "a b.png"),
    ("ü.png", "ü.png"),
    (EVIL, "\\x1b]0;owned\\x07\\x9b31m\\u202egnp.x"),
    ("a\nb\r\x00", "a\\nb\\r\\x00"),
    (os.fsdecode(b"\xff.png"), "\\udcff.png"),
    ("\U000e0041", "\\U000e0041"),
])  # fmt: skip
def test_printable(text: str, shown: str):
    assert printable(text) == shown


@pytest.mark.skipif(os.name != "posix", reason="names that other systems forbid")
def test_control_sequences_are_never_shown_raw(photos: Path, tmp_path: Path, keys: Path):
    """Of file names, of what manifests and key files say, and of arguments: in all that a run prints."""
    src, args = tmp_path / f"src{EVIL}", ("--key", keys / "good.key")
    photos.rename(src)
    said = [run("encrypt", src, tmp_path / f"enc{EVIL}", *args)]
    (src / f"{EVIL}.txt").touch()
    said.append(run("encrypt", src, tmp_path / "enc", *args))
    (src / f"{EVIL}.png").write_bytes(b"no image")
    said.append(refused("encrypt", src, tmp_path / "no", *args, says="\\x1b]0;owned"))
    said.append(run("encrypt", src, tmp_path / "enc", *args, "--skip-damaged"))
    assert "1 damaged files left out (\\x1b]0;owned" in said[-1]
    said.append((tmp_path / "enc/blockenc.skipped.txt").read_text())
    shutil.copy(src / "a.png", tmp_path / f"{EVIL}.png")
    run("encrypt", tmp_path / f"{EVIL}.png", tmp_path / f"x{EVIL}.png", *args)
    for path in (tmp_path / f"enc{EVIL}", tmp_path / f"x{EVIL}.png", src / "a.png", src / "deep/c.PNG"):
        said.append(CliRunner().invoke(cli.app, ["inspect", str(path)]).output)
    key = json.loads((keys / "good.key").read_text())
    (tmp_path / "evil.key").write_text(json.dumps({**key, "fingerprint": EVIL}))
    said.append(refused("inspect", tmp_path / "evil.key", says="damaged key file"))
    said.append(refused("inspect", tmp_path / f"none{EVIL}", says="No such file"))
    said.append(refused("encrypt", src, src / "a", *args, EVIL, says="owned", code=2))
    said.append(refused(EVIL, says="owned", code=2))
    said.append(run("keygen", tmp_path / f"k{EVIL}"))
    assert sum("owned" in text for text in said) >= 10
    for text in said:
        assert not set(text) & set(UNPRINTABLE)


def test_the_names_of_extras_are_shown(monkeypatch: pytest.MonkeyPatch):
    """Square brackets are markup to what renders help."""
    monkeypatch.setenv("COLUMNS", "300")
    for command in ("encrypt", "decrypt"):
        assert "pip install 'blockenc[ray]'" in run(command, "--help")


def test_the_password_is_not_in_the_environment_of_the_work(
    photos: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
):
    """Processes that are started meanwhile, such as Ray's workers, inherit the environment."""
    asked = "import os; print(os.environ.get('BLOCKENC_PASSWORD'))"
    seen = []

    def look(job, unit):
        child = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        seen.append((os.environ.get(cli.PASSWORD_VARIABLE), child.stdout.strip()))
        return do(job, unit)

    do = engine.do
    monkeypatch.setattr(engine, "do", look)
    run("encrypt", photos / "a.png", tmp_path / "enc", "--key", keys / "good.key")
    assert seen == [(None, "None")]
    assert os.environ[cli.PASSWORD_VARIABLE] == PASSWORD  # of the process that called us, as it was


def test_options_of_selection(photos: Path, tmp_path: Path, keys: Path):
    (photos / "notes.txt").touch()
    (photos / "deep/bad.png").write_bytes(b"no image")
    args = ("--key", keys / "good.key")
    said = run("encrypt", photos, tmp_path / "enc", *args, "--include", "*.png", "--include", "*.PNG",
               "--exclude", "deep/er", "--skip-damaged")  # fmt: skip
    assert said.splitlines()[0].startswith("encrypted 2 images")
    assert set(said.splitlines()[1:]) == {
        "2 excluded files left out (deep/er/b.png, notes.txt)",
        "1 damaged files left out (deep/bad.png)",
    }
    said = run("decrypt", tmp_path / "enc", tmp_path / "dec", *args, "--exclude", "deep")
    assert "1 excluded files left out (deep/c.png)" in said
    assert tree(tmp_path / "dec") == {"a.png"}


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_option_follow_links(photos: Path, tmp_path: Path, keys: Path):
    (tmp_path / "real").mkdir()
    shutil.copy(photos / "a.png", tmp_path / "real/x.png")
    (photos / "dog").symlink_to(tmp_path / "real")
    args = ("--key", keys / "good.key")
    said = run("encrypt", photos, tmp_path / "enc", *args)
    assert "1 links that lead out of SRC left out (dog); --follow-links follows them" in said
    said = run("encrypt", photos, tmp_path / "enc", *args, "--follow-links")
    assert "left out" not in said
    assert (tmp_path / "enc/dog/x.png").is_file()


def test_decryption_without_a_manifest(photos: Path, tmp_path: Path, keys: Path):
    image, args = save(tmp_path / "odd.png", (7, 9, 3)), ("--key", keys / "good.key")
    how = ("--block-size", 8, "--steps", "shuffle,np")
    run("encrypt", tmp_path / "odd.png", tmp_path / "x.png", *args, *how, "--fit", "pad")
    decrypt = ("decrypt", tmp_path / "x.png", tmp_path / "y.png", *args)
    refused(*decrypt, *how, says="x.png.json, which tells the scheme and sizes")
    (tmp_path / "x.png.json").unlink()
    refused(*decrypt, says="--block-size and --steps")
    refused(*decrypt, "--size", "9x7", says="expected both --block-size and --steps")
    refused(*decrypt, *how[:2], says="expected both --block-size and --steps")
    for size in ("9", "9x", "0x7", "-9x7", "9x7x3"):
        refused(*decrypt, *how, "--size", size, says="--size: expected WIDTHxHEIGHT")
    result = CliRunner().invoke(cli.app, [str(arg) for arg in (*decrypt, *how, "--size", "9x7")])
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: ")
    assert "nothing tells whether the key" in result.stderr
    assert result.stderr.count("\n") == 1
    np.testing.assert_array_equal(pixels(tmp_path / "y.png"), image)


def test_a_manifest_of_version_2_is_read_with_one_line_of_warning(photos: Path, tmp_path: Path, keys: Path):
    run("encrypt", photos, tmp_path / "enc", "--key", keys / "good.key")
    assert "with the key only" in run("inspect", tmp_path / "enc")
    manifest = tmp_path / "enc/blockenc.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(laid_out({**fields, "version": 2}, keys / "good.key"))
    assert "no: version 2 has no tag" in run("inspect", tmp_path / "enc")
    result = CliRunner().invoke(
        cli.app, ["decrypt", str(tmp_path / "enc"), str(tmp_path / "dec"), "--key", str(keys / "good.key")]
    )
    assert result.exit_code == 0
    assert result.stderr.startswith(
        f"warning: {manifest}: a manifest of version 2, which is not authenticated"
    )
    assert result.stderr.count("\n") == 1


def test_places_that_end_in_a_slash(photos: Path, tmp_path: Path, keys: Path):
    args = ("--key", keys / "good.key")
    refused("encrypt", photos / "a.png", tmp_path / "x.jpg", *args, says="write ")
    run("encrypt", photos / "a.png", f"{tmp_path}/x.jpg/", *args)
    assert tree(tmp_path / "x.jpg") == {"a.png", "blockenc.json"}


@pytest.mark.skipif(os.name != "posix", reason="FIFOs")
def test_inspect_does_not_wait_for_a_fifo(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.key")
    refused("inspect", tmp_path / "pipe.key", says="neither a file nor a folder")


def test_what_is_encrypted_already_needs_insistence(photos: Path, tmp_path: Path, keys: Path):
    args = ("--key", keys / "good.key")
    run("encrypt", photos, tmp_path / "enc", *args)
    refused("encrypt", tmp_path / "enc", tmp_path / "twice", *args, says="--again encrypts it once more")
    run("encrypt", tmp_path / "enc", tmp_path / "twice", *args, "--again")
