"""Encrypted pictures as JPEG: schemes that leave blocks whole come back, others are refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from typer.testing import CliRunner

import blockenc
from blockenc.cli import app as cli
from blockenc.datasets import pictures
from blockenc.datasets.chroma import within_units
from blockenc.datasets.coding import PNG, UNITS, Jpeg, coding_from
from blockenc.datasets.engine import decrypt_files, decrypt_unlisted, encrypt_files
from blockenc.datasets.manifest import ManifestError, read_folder
from blockenc.datasets.pixels import ImageFileError, RefusedError
from blockenc.datasets.reading import Reading
from blockenc.steps import KINDS, Colour, Np, Rotate, Scramble, Shuffle, Step
from tests import oracle

KEY = blockenc.Key(oracle.KEY)
RNG = np.random.default_rng(0)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture of the kind that JPEG is made for, with an edge and colours."""
    y, x = np.mgrid[:height, :width] / 16
    waves = np.stack([np.sin(y + x), np.cos(y - x), np.sin(2 * y)], axis=-1)
    picture = 128 + 90 * waves
    picture[: height // 3, : width // 2] = (200, 40, 90)
    return picture.round().astype(np.uint8)


def scheme(block_size: int, *steps: Step) -> blockenc.Scheme:
    return blockenc.Scheme(block_size=block_size, steps=steps or (Scramble(period="image"),))


def all_steps(block_size: int) -> blockenc.Scheme:
    return scheme(
        block_size,
        Scramble(period="image"),
        Rotate(period="image"),
        Np(unit="block", period="image"),
        Colour(period="image"),
    )


def as_jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def pixels_of(source: Path | bytes) -> np.ndarray:
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return np.asarray(image)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src/class"
    folder.mkdir(parents=True)
    Image.fromarray(smooth(48, 80)).save(folder / "a.png")
    Image.fromarray(smooth(64, 32)).save(folder / "b.bmp")
    return tmp_path / "src"


def test_blocks_that_move_are_compressed_as_if_they_lay_still(src: Path, tmp_path: Path) -> None:
    """Blocks of 8 are coded one by one at 4:4:4: the result is that of plain JPEG, to the bit."""
    reading = Reading(coding=Jpeg(70, "444"))
    encrypt_files(src, tmp_path / "enc", KEY, scheme(8), reading=reading)
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    for name, size in (("a", (48, 80)), ("b", (64, 32))):
        with Image.open(tmp_path / f"enc/class/{name}.jpg") as image:
            assert image.format == "JPEG"
            assert JpegImagePlugin.get_sampling(image) == 0
            assert psnr(np.asarray(image), smooth(*size)) < 20
        plain = pixels_of(as_jpeg(smooth(*size), quality=70, subsampling="4:4:4"))
        np.testing.assert_array_equal(pixels_of(tmp_path / f"dec/class/{name}.png"), plain)


@pytest.mark.parametrize(
    ("subsampling", "block_size", "loss"), [("444", 8, 2), ("444", 16, 2), ("420", 16, 3)]
)
def test_all_steps_come_back_as_well_as_plain_jpeg(
    src: Path, tmp_path: Path, subsampling: str, block_size: int, loss: float
) -> None:
    """loss: in dB. Units of 16 x 16 have no neighbours that chroma could be interpolated with."""
    coding = Jpeg(90, subsampling)
    encrypt_files(src, tmp_path / "enc", KEY, all_steps(block_size), reading=Reading(coding=coding))
    assert read_folder(tmp_path / "enc").reading.coding == coding
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    original = smooth(48, 80)
    plain = pixels_of(as_jpeg(original, quality=90, subsampling=":".join(subsampling)))
    assert psnr(pixels_of(tmp_path / "dec/class/a.png"), original) > psnr(plain, original) - loss
    assert psnr(pixels_of(tmp_path / "enc/class/a.jpg"), original) < 15


def turned_about(picture: np.ndarray) -> np.ndarray:
    """The units of 16 x 16 in the opposite order."""
    rows, columns = picture.shape[0] // 16, picture.shape[1] // 16
    units = picture.reshape(rows, 16, columns, 16, -1)[::-1, :, ::-1]
    return units.reshape(picture.shape)


def decoded(data: bytes, coding: Jpeg) -> np.ndarray:
    return pictures.read_encrypted(data, "a picture", Reading(coding=coding))


@pytest.mark.parametrize("quality", [50, 95])
def test_a_unit_is_decoded_alike_wherever_it_lies(quality: int) -> None:
    coding, picture = Jpeg(quality, "420"), smooth(64, 96)
    here, there = (coding.encode(p) for p in (picture, turned_about(picture)))
    error = np.abs(turned_about(decoded(there, coding)).astype(int) - decoded(here, coding))
    assert (error.mean(), error.max()) < (0.1, 6)
    usual = np.abs(turned_about(pixels_of(there)).astype(int) - pixels_of(here))
    assert usual.max() > 20
    inside = np.s_[1:15, 1:15]  # what no neighbour reaches is what every decoder gives
    assert np.abs(decoded(here, coding)[inside].astype(int) - pixels_of(here)[inside]).max() <= 3


def test_what_other_decoders_make_of_chroma_is_left_alone() -> None:
    y, *chroma = RNG.integers(0, 256, (3, 16, 32), np.uint8)
    boxes = [np.repeat(np.repeat(c[:8, :16], 2, axis=0), 2, axis=1) for c in chroma]
    given = np.stack([y, *boxes], axis=-1)
    np.testing.assert_array_equal(within_units(given), given)


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (32, 16)])
def test_samples_of_chroma_are_found_again(size: tuple[int, int]) -> None:
    """From what libjpeg's h2v2_fancy_upsample makes of them."""
    samples = RNG.integers(60, 200, size)

    def parts(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.pad(s, ((1, 1), (0, 0)), mode="edge")
        return 3 * s + padded[:-2], 3 * s + padded[2:]

    rows = np.stack(parts(samples), axis=1).reshape(-1, size[1])
    left, right = (part.T for part in parts(rows.T))
    full = np.stack([(left + 8) >> 4, (right + 7) >> 4], axis=-1).reshape(2 * size[0], 2 * size[1])
    given = np.stack([np.zeros_like(full), full, full], axis=-1).astype(np.uint8)
    found = within_units(given)
    first = found[:16, :16, 1].astype(float)
    alone = np.pad(samples[:8, :8], 1, mode="edge")
    want = (9 * alone[1:-1, 1:-1] + 3 * alone[:-2, 1:-1] + 3 * alone[1:-1, :-2] + alone[:-2, :-2]) / 16
    assert np.abs(first[::2, ::2] - want).max() <= 1.1
    np.testing.assert_array_equal(found[:, :, 1], found[:, :, 2])
    np.testing.assert_array_equal(found[:, :, 0], 0)


WHOLE: list[Step] = [Scramble(), Rotate(), Np(unit="block"), Np(unit="block", cells="nibble"), Colour()]
MIXING: list[Step] = [
    *(KINDS["shuffle"](), KINDS["ffx"](), Np(), Np(cells="nibble"), Colour(unit="pixel")),
    Shuffle(cells="nibble"),
]


def test_every_kind_of_step_is_asked() -> None:
    assert {step.kind for step in WHOLE + MIXING} == set(KINDS)


@pytest.mark.parametrize("step", WHOLE, ids=str)
def test_whole_blocks_go_through(step: Step) -> None:
    """What the property says is what JPEG does: the block comes back up to JPEG's own loss."""
    bound = scheme(16, type(step)(**{**vars(step), "period": "image"}))
    for subsampling in UNITS:
        Jpeg(90, subsampling).check_scheme(bound)
    cipher, original = blockenc.Cipher(KEY, bound), smooth(64, 64)
    coded = pixels_of(Jpeg(90, "444").encode(cipher.encrypt(original)))
    plain = pixels_of(Jpeg(90, "444").encode(original))
    assert psnr(cipher.decrypt(coded), original) > psnr(plain, original) - 2


@pytest.mark.parametrize("step", MIXING, ids=str)
def test_other_steps_are_refused_and_would_not(step: Step) -> None:
    bound = scheme(16, Scramble(period="image"), type(step)(**{**vars(step), "period": "image"}))
    with pytest.raises(ValueError, match=rf"^steps: {step.kind} .* inside of 16 x 16 blocks, which JPEG's"):
        Jpeg(90, "444").check_scheme(bound)
    cipher, original = blockenc.Cipher(KEY, bound), smooth(64, 64)
    coded = pixels_of(Jpeg(90, "444").encode(cipher.encrypt(original)))
    plain = pixels_of(Jpeg(90, "444").encode(original))
    assert psnr(cipher.decrypt(coded), original) < psnr(plain, original) - 5


@pytest.mark.parametrize(
    ("block_size", "subsampling", "says"),
    [
        (8, "420", "blocks of 8 x 8 pixels, and JPEG with 4:2:0 codes 16 x 16 pixels together; expected a "
         "block size that is a multiple of 16, or 4:4:4, which needs 8"),
        (24, "420", "multiple of 16"),
        (4, "444", "blocks of 4 x 4 pixels, and JPEG with 4:4:4 codes 8 x 8 .* a multiple of 8$"),
        (12, "444", "multiple of 8$"),
    ],
)  # fmt: skip
def test_blocks_must_be_whole_units(block_size: int, subsampling: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^steps: scramble has .*{says}"):
        Jpeg(90, subsampling).check_scheme(scheme(block_size))


def test_every_step_has_its_own_block_size() -> None:
    mixed = scheme(16, Scramble(period="image"), Rotate(block_size=8))
    Jpeg(90, "444").check_scheme(mixed)
    with pytest.raises(ValueError, match="rotate has blocks of 8 x 8"):
        Jpeg(90, "420").check_scheme(mixed)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (("jpeg", 0), ValueError, "quality: expected 1 to 100, got 0"),
        (("jpeg", 101), ValueError, "quality: expected 1 to 100, got 101"),
        (("jpeg", 90.0), TypeError, "quality: expected an integer, got 90.0"),
        (("jpeg", True), TypeError, "quality: expected an integer, got True"),
        (("jpeg", 90, "422"), ValueError, "subsampling: expected one of 444, 420, got '422'"),
        (("gif",), ValueError, "format: expected one of png, jpeg, got 'gif'"),
        (("png", 90), ValueError, "quality: goes with the format jpeg"),
        (("png", None, "444"), ValueError, "subsampling: goes with the format jpeg"),
    ],
)
def test_wrong_options(options: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"^{says}"):
        coding_from(*options)


def test_codings_have_their_dicts() -> None:
    for coding in (PNG, Jpeg(), Jpeg(50, "420")):
        assert coding_from(**coding.to_dict()) == coding
    assert "coding" not in Reading().to_dict()  # manifests of PNG files are as they were
    reading = Reading(coding=Jpeg(33, "420"))
    assert Reading.from_dict(reading.to_dict()) == reading


@pytest.mark.parametrize(("fit", "size"), [("pad", (48, 32)), ("crop", (32, 16))])
def test_sizes_that_the_blocks_do_not_divide(tmp_path: Path, fit: str, size: tuple[int, int]) -> None:
    Image.fromarray(smooth(30, 45)).save(tmp_path / "a.png")
    reading = Reading(coding=Jpeg(95, "420"))
    with pytest.raises(ValueError, match="45 x 30 pixels is not a multiple of the block size 16"):
        encrypt_files(tmp_path / "a.png", tmp_path / "x.jpg", KEY, scheme(16), reading=reading)
    assert not (tmp_path / "x.jpg").exists()
    encrypt_files(tmp_path / "a.png", tmp_path / "x.jpg", KEY, scheme(16), fit=fit, reading=reading)
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.size == size
        assert JpegImagePlugin.get_sampling(image) == 2
    decrypt_files(tmp_path / "x.jpg", tmp_path / "y.png", KEY)
    rows, columns = (30, 45) if fit == "pad" else size[::-1]
    assert psnr(pixels_of(tmp_path / "y.png"), smooth(30, 45)[:rows, :columns]) > 25


def test_what_jpeg_does_not_survive_is_refused_before_anything_is_written(src: Path, tmp_path: Path) -> None:
    for subsampling, wanted in (("444", blockenc.Scheme(8)), ("420", scheme(8))):
        with pytest.raises(ValueError, match=r"^steps: "):
            encrypt_files(src, tmp_path / "enc", KEY, wanted, reading=Reading(coding=Jpeg(90, subsampling)))
    with pytest.raises(ValueError, match=r"^verify: compares to the pixel, and JPEG files do not keep"):
        encrypt_files(src, tmp_path / "enc", KEY, scheme(8), reading=Reading(coding=Jpeg()), verify="all")
    assert not (tmp_path / "enc").exists()


def test_another_subsampling_is_refused_before_anything_is_written(src: Path, tmp_path: Path) -> None:
    enc, dec = tmp_path / "enc", tmp_path / "dec"
    encrypt_files(src, enc, KEY, scheme(16), reading=Reading(coding=Jpeg(90, "420")))
    file = enc / "class/b.jpg"
    file.write_bytes(as_jpeg(pixels_of(file), quality=90, subsampling="4:4:4"))
    for source, target in ((enc, dec), (file, tmp_path / "b.png")):
        with pytest.raises(ImageFileError, match=r"b\.jpg: a JPEG with 4:4:4, and its encryption was written "
                           r"with 4:2:0; it was compressed anew"):  # fmt: skip
            decrypt_files(source, target, KEY)
        assert not target.exists()
    summary = decrypt_files(enc, dec, KEY, skip_damaged=True)
    assert summary.images == 1
    assert "4:4:4" in (dec / "blockenc.skipped.txt").read_text()


def test_a_file_that_was_compressed_anew_is_not_the_one_listed(src: Path, tmp_path: Path) -> None:
    enc = tmp_path / "enc"
    encrypt_files(src, enc, KEY, scheme(16), reading=Reading(coding=Jpeg(90, "444")))
    file = enc / "class/b.jpg"
    file.write_bytes(as_jpeg(pixels_of(file), quality=80, subsampling="4:4:4"))
    with pytest.raises(
        ImageFileError, match=r"b\.jpg: not the image that the manifest lists; it was altered"
    ):
        decrypt_files(enc, tmp_path / "dec", KEY)
    Image.fromarray(pixels_of(file)).save(file, "PNG")
    with pytest.raises(ImageFileError, match=r"not an encrypted picture, which is an 8-bit grey or RGB JPEG"):
        decrypt_files(enc, tmp_path / "dec", KEY)


def test_without_a_manifest(src: Path, tmp_path: Path) -> None:
    """A service has compressed the file anew: with the scheme told, it decrypts."""
    enc = tmp_path / "enc"
    encrypt_files(src, enc, KEY, all_steps(16), reading=Reading(coding=Jpeg(90, "420")))
    alone = tmp_path / "a.jpg"
    alone.write_bytes(as_jpeg(pixels_of(enc / "class/a.jpg"), quality=70, subsampling="4:2:0"))
    out = tmp_path / "out.png"
    with pytest.raises(
        ValueError, match=r"a\.jpg: JPEG files do not keep encrypted pixels, unless they were"
    ):
        decrypt_unlisted(alone, out, KEY, all_steps(16), warn=str)
    with pytest.raises(ValueError, match=r"^steps: shuffle moves values"):
        decrypt_unlisted(alone, out, KEY, blockenc.Scheme(8), coding=Jpeg(), warn=str)
    with pytest.raises(ImageFileError, match=r"a JPEG with 4:2:0, and its encryption was written with 4:4:4"):
        decrypt_unlisted(alone, out, KEY, all_steps(16), coding=Jpeg(), warn=str)
    assert not out.exists()
    decrypt_unlisted(alone, out, KEY, all_steps(16), coding=Jpeg(subsampling="420"), warn=str)
    assert psnr(pixels_of(out), smooth(48, 80)) > 18


def test_what_has_no_room_in_a_jpeg(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    grey = Image.fromarray(smooth(32, 32)).convert("L")
    grey.save(tmp_path / "src/grey.png")
    grey.convert("P").save(tmp_path / "src/palette.png")
    grey.convert("1").save(tmp_path / "src/bit.png")
    reading = Reading(coding=Jpeg(95))
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, all_steps(8), reading=reading)
    decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
    for name, mode in (("grey", "L"), ("palette", "RGB"), ("bit", "1")):
        with Image.open(tmp_path / f"dec/{name}.png") as image:
            assert image.mode == mode
    assert psnr(pixels_of(tmp_path / "dec/grey.png"), np.asarray(grey)) > 30
    alpha = Image.fromarray(np.dstack((smooth(32, 32), np.full((32, 32), 99, np.uint8))))
    alpha.save(tmp_path / "alpha.png")
    grey.save(tmp_path / "one.png", transparency=3)
    for name in ("alpha", "one"):
        source, out = tmp_path / f"{name}.png", tmp_path / f"{name}.jpg"
        with pytest.raises(
            RefusedError, match=rf"{name}\.png: transparency, for which JPEG files have no room"
        ):
            encrypt_files(source, out, KEY, all_steps(8), reading=reading)
        assert not out.exists()
        encrypt_files(source, out, KEY, all_steps(8), reading=Reading(coding=Jpeg(95), convert=True))
        decrypt_files(out, tmp_path / f"{name}-again.png", KEY)
    assert psnr(pixels_of(tmp_path / "alpha-again.png"), smooth(32, 32)) > 25


def test_grey_pictures_as_they_are(tmp_path: Path) -> None:
    grey = np.asarray(Image.fromarray(smooth(32, 48)).convert("L"))
    Image.fromarray(grey).save(tmp_path / "a.png")
    reading = Reading("keep", coding=Jpeg(95, "420"))
    encrypt_files(tmp_path / "a.png", tmp_path / "x.jpg", KEY, scheme(16), reading=reading)
    assert pixels_of(tmp_path / "x.jpg").shape == (32, 48)
    decrypt_files(tmp_path / "x.jpg", tmp_path / "y.png", KEY)
    assert psnr(pixels_of(tmp_path / "y.png"), grey) > 35


def test_pictures_in_shards(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(smooth(32, 48)).save(data, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("0.png")
        info.size = len(data.getvalue())
        tar.addfile(info, io.BytesIO(data.getvalue()))
    reading = Reading(coding=Jpeg(90, "444"))
    encrypt_files(tmp_path / "a.tar", tmp_path / "enc/", KEY, scheme(8), reading=reading)
    with tarfile.open(tmp_path / "enc/a.tar") as tar:
        assert tar.getnames() == ["0.jpg"]
    decrypt_files(tmp_path / "enc/a.tar", tmp_path / "dec/", KEY)
    with tarfile.open(tmp_path / "dec/a.tar") as tar:
        assert tar.getnames() == ["0.png"]
        file = tar.extractfile("0.png")
        assert file is not None
        plain = pixels_of(as_jpeg(smooth(32, 48), quality=90, subsampling="4:4:4"))
        np.testing.assert_array_equal(pixels_of(file.read()), plain)


def test_pictures_in_tables(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = io.BytesIO()
    Image.fromarray(smooth(32, 48)).save(data, "PNG")
    rows = [{"bytes": data.getvalue(), "path": "a.png"}] * 2
    parquet.write_table(pyarrow.table({"image": rows, "label": [0, 1]}), tmp_path / "t.parquet")
    encrypt_files(tmp_path / "t.parquet", tmp_path / "enc/", KEY, scheme(8), reading=Reading(coding=Jpeg(90)))
    decrypt_files(tmp_path / "enc/t.parquet", tmp_path / "dec/", KEY)
    encrypted, decrypted = (parquet.read_table(tmp_path / f"{name}/t.parquet") for name in ("enc", "dec"))
    assert [row["path"] for row in encrypted["image"].to_pylist()] == ["a.jpg"] * 2
    with Image.open(io.BytesIO(encrypted["image"][1].as_py()["bytes"])) as image:
        assert image.format == "JPEG"
    plain = pixels_of(as_jpeg(smooth(32, 48), quality=90, subsampling="4:4:4"))
    for row in decrypted["image"].to_pylist():
        assert row["path"] == "a.png"
        np.testing.assert_array_equal(pixels_of(row["bytes"]), plain)


@pytest.mark.parametrize(
    "change",
    [
        ('"quality": 90', '"quality": 0'),
        ('"quality": 90', '"quality": true'),
        ('"quality": 90', '"quality": 90,\n   "more": 1'),
        ('"subsampling": "444"', '"subsampling": "411"'),
        ('"format": "jpeg"', '"format": "gif"'),
        ('"fit": "error"', '"fit": "error",\n "per_image": 1'),
    ],
)
def test_manifests_that_are_damaged(src: Path, tmp_path: Path, change: tuple[str, str]) -> None:
    encrypt_files(src, tmp_path / "enc", KEY, scheme(16), reading=Reading(coding=Jpeg(90)))
    manifest = tmp_path / "enc/blockenc.json"
    assert manifest.read_text().count(change[0]) == 1
    manifest.write_text(manifest.read_text().replace(*change))
    with pytest.raises(ManifestError, match="damaged manifest"):
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)


def test_a_run_that_was_cut_off_goes_on(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, encode, calls = Reading(coding=Jpeg(90)), Jpeg.encode, []
    encrypt_files(src, tmp_path / "whole", KEY, scheme(8), reading=reading)

    def stops(self: Jpeg, image: np.ndarray) -> bytes:
        calls.append(1)
        if len(calls) > 1:
            raise OSError("the power fails")
        return encode(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(Jpeg, "encode", stops)
        with pytest.raises(OSError, match="power"):
            encrypt_files(src, tmp_path / "enc", KEY, scheme(8), reading=reading, workers=1)
    with pytest.raises(ManifestError, match="had another reading"):
        encrypt_files(src, tmp_path / "enc", KEY, scheme(8), reading=Reading(coding=Jpeg(91)))
    assert encrypt_files(src, tmp_path / "enc", KEY, scheme(8), reading=reading).resumed == 1
    for name in ("blockenc.json", "class/a.jpg", "class/b.jpg"):
        assert (tmp_path / "enc" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_holds_one_coding(src: Path, tmp_path: Path) -> None:
    enc = tmp_path / "enc"
    encrypt_files(src, enc, KEY, scheme(16), reading=Reading(coding=Jpeg(90)))
    for other in (PNG, Jpeg(91), Jpeg(90, "420")):
        with pytest.raises(ManifestError, match=r"encrypted with other options, .*--quality"):
            encrypt_files(src, enc, KEY, scheme(16), reading=Reading(coding=other))
    before = (enc / "class/a.jpg").read_bytes()
    encrypt_files(src, enc, KEY, scheme(16), reading=Reading(coding=Jpeg(90)))
    assert (enc / "class/a.jpg").read_bytes() == before


STEPS = "scramble:period=image,rotate:period=image,np:unit=block:period=image,colour:period=image"


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cli.PASSWORD_VARIABLE, "password")
    monkeypatch.setattr("blockenc.keys.keyfile.SCRYPT_N", 2**10)
    KEY.save(tmp_path / "key", "password")
    return tmp_path / "key"


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_line(src: Path, tmp_path: Path, key: Path) -> None:
    enc, dec = tmp_path / "enc", tmp_path / "dec"
    scheme_ = ("--key", key, "--block-size", 16, "--steps", STEPS)
    as_jpegs = ("--format", "jpeg", "--quality", 80, "--subsampling", "420")
    run("encrypt", src, enc, *scheme_, *as_jpegs)
    assert read_folder(enc).scheme.bound_steps == all_steps(16).bound_steps
    assert "JPEG, quality 80, 4:2:0" in run("inspect", enc)
    run("decrypt", enc, dec, "--key", key)
    assert psnr(pixels_of(dec / "class/b.png"), smooth(64, 32)) > 20
    alone = tmp_path / "alone.jpg"
    alone.write_bytes((enc / "class/b.jpg").read_bytes())
    run("decrypt", alone, tmp_path / "b.png", *scheme_, "--format", "jpeg", "--subsampling", "420")
    np.testing.assert_array_equal(pixels_of(tmp_path / "b.png"), pixels_of(dec / "class/b.png"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--format", "jpeg"), "steps: shuffle moves values inside of 4 x 4 blocks, which JPEG's transform"),
        (("--quality", 90), "quality: goes with the format jpeg"),
        (("--format", "jpeg", "--quality", 0), "quality: expected 1 to 100, got 0"),
        (
            ("--steps", "scramble:period"),
            "steps[0]: expected NAME=VALUE, each name once, such as period=image",
        ),
        (("--steps", "np,np:unit=block:unit=value"), "steps[1]: expected NAME=VALUE, each name once"),
        (
            ("--steps", "np:units=block"),
            "steps[0]: expected fields out of kind, block_size, period, cells, unit",
        ),
        (
            ("--steps", "scramble:period=7"),
            "steps[0]: period: expected a multiple of the block size 4, got 7",
        ),
    ],
)
def test_wrong_usage_is_one_line(src: Path, tmp_path: Path, key: Path, options: tuple, says: str) -> None:
    said = run("encrypt", src, tmp_path / "enc", "--key", key, *options, code=1)
    assert said.startswith(f"error: {says}")
    assert said.count("\n") == 1
    assert not (tmp_path / "enc").exists()
