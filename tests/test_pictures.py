"""Picture files: one picture has one encryption, on disk and in loaders, and comes back as it was stored."""

from __future__ import annotations

import base64
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

import blockenc
from blockenc.datasets import pictures
from blockenc.datasets.engine import decrypt_files, encrypt_files
from blockenc.datasets.manifest import ManifestError, read_folder
from blockenc.datasets.pixels import ImageFileError
from blockenc.datasets.reading import Reading
from blockenc.errors import BlockencError
from tests import oracle
from tests.test_manifest import as_version_2, sealed

KEY = blockenc.Key(oracle.KEY)
SCHEME = blockenc.Scheme(channels=1)
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def rgb() -> Image.Image:
    return Image.fromarray(noise(8, 12, 3))


def rgba() -> Image.Image:
    return Image.fromarray(noise(8, 12, 4))


def palette(colours: int = 256) -> Image.Image:
    image = Image.fromarray(RNG.integers(0, colours, (8, 12), np.uint8)).convert("P")
    image.putpalette(noise(colours, 3).tobytes())
    return image


def twins() -> Image.Image:
    """A palette in which several numbers have one colour, such as those of label pictures."""
    image = palette()
    image.putpalette((noise(256, 3) // 128).tobytes())
    return image


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Name, picture, options of save: what is kept, by mode and by format.
STORED: dict[str, tuple[str, Callable[[], Image.Image], dict]] = {
    "rgb": ("a.png", rgb, {}),
    "grey": ("a.png", lambda: rgb().convert("L"), {}),
    "one bit": ("a.png", lambda: rgb().convert("1"), {}),
    "grey alpha": ("a.png", lambda: rgba().convert("LA"), {}),
    "alpha": ("a.png", rgba, {}),
    "palette": ("a.png", palette, {}),
    "short palette": ("a.png", lambda: palette(7), {}),
    "equal colours": ("a.png", twins, {}),
    "transparent number": ("a.png", palette, {"transparency": 3}),
    "transparent numbers": ("a.png", palette, {"transparency": bytes(range(200))}),
    "transparent colour": (
        "a.png",
        lambda: Image.fromarray(noise(8, 12, 3) // 200),
        {"transparency": (0, 0, 0)},
    ),
    "transparent grey": ("a.png", lambda: Image.fromarray(noise(8, 12) // 100), {"transparency": 1}),
    "turned": ("a.png", rgb, {"exif": turned(6)}),
    "turned photo": ("a.jpg", rgb, {"exif": turned(5)}),
    "grey photo": ("a.jpeg", lambda: rgb().convert("L"), {}),
    "turned TIFF": ("a.tif", rgb, {"exif": turned(6)}),
    "TIFF of a palette": ("a.tiff", palette, {}),
    "BMP of a palette": ("a.bmp", palette, {}),
    "WEBP": ("a.webp", rgba, {"lossless": True}),
    "PPM": ("a.ppm", rgb, {}),
    "PGM": ("a.pgm", lambda: rgb().convert("L"), {}),
    "PBM": ("a.pbm", lambda: rgb().convert("1"), {}),
}


def loaded(path: Path) -> np.ndarray:
    """As torchvision's ImageFolder loads it."""
    with Image.open(path) as image:
        image.load()
        image.info.pop("transparency", None)
        return np.asarray(image.convert("RGB"))


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("mode", ("rgb", "keep"))
@pytest.mark.parametrize("kind", STORED)
def test_one_picture_one_encryption_and_back(tmp_path: Path, kind: str, mode: str) -> None:
    name, make, options = STORED[kind]
    (tmp_path / "src").mkdir()
    source, enc = tmp_path / "src" / name, tmp_path / "enc/a.png"
    make().save(source, **options)
    encrypt_files(source.parent, enc.parent, KEY, SCHEME, reading=Reading(mode), verify="all")
    if mode == "rgb":
        np.testing.assert_array_equal(loaded(enc), blockenc.encrypt(loaded(source), KEY))
    decrypt_files(enc.parent, tmp_path / "dec", KEY)
    with Image.open(source) as before, Image.open(tmp_path / "dec/a.png") as after:
        before.load()
        after.load()
        if "transparency" not in before.info:
            assert after.mode == before.mode
        if before.mode == "P":
            np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        assert after.getexif().get(0x0112, 1) == before.getexif().get(0x0112, 1)
        assert dict(after.getexif()).keys() <= {0x0112}
    np.testing.assert_array_equal(shown(tmp_path / "dec/a.png"), shown(source))
    with Image.open(enc) as image:
        assert not image.getexif()
        assert not image.info


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "suffix, mode", [("tif", "L"), ("tif", "P"), ("tif", "RGB"), ("jpg", "L"), ("jpg", "RGB")]
)
def test_a_path_and_its_bytes_give_one_picture(
    tmp_path: Path, suffix: str, mode: str, orientation: int
) -> None:
    """Turned or not; the header tells the size of what is read, before it is read."""
    path = tmp_path / f"a.{suffix}"
    image = palette() if mode == "P" else rgb().convert(mode)
    image.save(path, exif=turned(orientation))
    of_path, of_bytes = (pictures.read(source, path, Reading()) for source in (path, path.read_bytes()))
    for one, other in zip(of_path, of_bytes, strict=True):
        np.testing.assert_array_equal(one, other)
    height, width = of_path.colours.shape[:2]
    for source in (path, path.read_bytes()):
        assert pictures.header(source, path, Reading())[0] == (width, height)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))).convert("RGB"))
    if suffix == "tif":  # which Pillow turns
        assert of_path.orientation == 1
        np.testing.assert_array_equal(of_path.colours, upright)
    else:
        assert of_path.orientation == orientation
        assert (width, height) == (12, 8)


def test_a_picture_of_another_size_than_its_header_told(tmp_path: Path, monkeypatch) -> None:
    rgb().save(tmp_path / "a.png")
    load = PngImageFile.load

    def turns(image: PngImageFile) -> object:
        found = load(image)
        image.im = image.im.resize((8, 12))
        return found

    monkeypatch.setattr(PngImageFile, "load", turns)
    with pytest.raises(ImageFileError, match=r"a\.png: 12 x 8 pixels by its header, 8 x 12 in fact"):
        pictures.read(tmp_path / "a.png", tmp_path / "a.png", Reading())


def test_keep_encrypts_the_channels_there_are(tmp_path: Path) -> None:
    for name, image in (("l", rgb().convert("L")), ("rgb", rgb()), ("rgba", rgba())):
        image.save(tmp_path / f"{name}.png")
        encrypt_files(
            tmp_path / f"{name}.png", tmp_path / f"x-{name}.png", KEY, SCHEME, reading=Reading("keep")
        )
        with Image.open(tmp_path / f"x-{name}.png") as encrypted:
            want = blockenc.encrypt(np.atleast_3d(np.asarray(image)), KEY)
            np.testing.assert_array_equal(np.atleast_3d(np.asarray(encrypted)), want)


@pytest.mark.parametrize("fit", ("pad", "crop"))
@pytest.mark.parametrize("kind", ("palette", "transparent numbers", "grey alpha", "turned"))
def test_what_is_carried_fits_as_the_colours_do(tmp_path: Path, kind: str, fit: str) -> None:
    _, make, options = STORED[kind]
    make().crop((0, 0, 11, 7)).save(tmp_path / "a.png", **options)
    scheme = blockenc.Scheme(channels=1, block_size=3, steps=("shuffle", "np"))
    encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, scheme, fit=fit, verify="all")
    decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY)
    height, width = (7, 11) if fit == "pad" else (6, 9)
    np.testing.assert_array_equal(shown(tmp_path / "y.png"), shown(tmp_path / "a.png")[:height, :width])


def test_alpha_and_palette_are_encrypted(tmp_path: Path) -> None:
    """With one channel; the colours of a palette as a picture of 16 x 16."""
    (tmp_path / "src").mkdir()
    image = palette()
    image.save(tmp_path / "src/p.png")
    rgba().save(tmp_path / "src/rgba.png")
    encrypt_files(tmp_path / "src", tmp_path / "enc", KEY, SCHEME)
    for name in ("p", "rgba"):
        with (
            Image.open(tmp_path / f"src/{name}.png") as plain,
            Image.open(tmp_path / f"enc/{name}.png") as there,
        ):
            band = np.asarray(plain)[..., 3] if name == "rgba" else np.asarray(plain)
            want = blockenc.encrypt(np.ascontiguousarray(band[..., None]), KEY)[..., 0]
            np.testing.assert_array_equal(np.asarray(there)[..., 3], want)
    picture = next(iter(next(iter(read_folder(tmp_path / "enc").items())).images))
    found = np.frombuffer(base64.b64decode(picture.palette), np.uint8).reshape(16, 16, 4)
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(found[..., :3], blockenc.encrypt(colours, KEY))


# --- what 8-bit RGB would lose ---


def png16(colour: int, channels: int) -> bytes:
    """A PNG of 16 bits a sample, which Pillow reads as 8 where there is colour."""
    rows = np.zeros((8, 1 + 8 * channels * 2), np.uint8)
    rows[:, 1:] = noise(8, 8 * channels * 2)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def frames(kind: str) -> bytes:
    return saved(rgb(), kind, save_all=True, append_images=[rgb(), rgb()])


LOSSY: dict[str, Callable[[], bytes]] = {
    "16.png": lambda: saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900), "PNG"),
    "16-rgb.png": lambda: png16(2, 3),
    "16-la.png": lambda: png16(4, 2),
    "16-rgba.png": lambda: png16(6, 4),
    "16.tif": lambda: saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900), "TIFF"),
    "16.pgm": lambda: b"P5 8 8 65535\n" + noise(8, 16).tobytes(),
    "16.ppm": lambda: b"P6\n# 255\n8 8\n1023\n" + (noise(8, 48) % 4).tobytes(),
    "32.tif": lambda: saved(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) * 900), "TIFF"),
    "float.tif": lambda: saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
    "cmyk.jpg": lambda: saved(rgb().convert("CMYK"), "JPEG"),
    "lab.tif": lambda: saved(rgb().convert("LAB"), "TIFF"),
    "frames.png": lambda: frames("PNG"),
    "frames.tif": lambda: frames("TIFF"),
    "frames.webp": lambda: frames("WEBP"),
}


@pytest.mark.parametrize("where", ("file", "tar", "table"))
@pytest.mark.parametrize("name", LOSSY)
def test_what_8_bit_rgb_would_lose_is_refused(tmp_path: Path, name: str, where: str) -> None:
    src, data = tmp_path / "src", LOSSY[name]()
    src.mkdir()
    if where == "file":
        rgb().save(src / "0.png")  # would be done first
        (src / name).write_bytes(data)
    elif where == "tar":
        with tarfile.open(src / "a.tar", "w") as tar:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.table({name: pa.array([data])}), src / "a.parquet")
    with pytest.raises(
        ImageFileError, match=rf"{name}: (more than 8 bits|pixels of mode|several frames).*--convert"
    ):
        encrypt_files(src, tmp_path / "enc", KEY, SCHEME, fit="pad")
    assert not (tmp_path / "enc").exists()
    if name != "lab.tif":  # Pillow converts that by a colour profile only
        encrypt_files(
            src, tmp_path / "enc", KEY, SCHEME, fit="pad", reading=Reading(convert=True), verify="all"
        )
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)


def test_a_converted_16_bit_picture_has_its_high_bytes(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (8, 8), np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME, reading=Reading(convert=True))
    decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY)
    with Image.open(tmp_path / "y.png") as image:
        np.testing.assert_array_equal(np.asarray(image), values >> 8)


# --- hostile files ---


def test_only_formats_of_the_list_are_opened(tmp_path: Path, monkeypatch) -> None:
    """PostScript under the name of a picture: Pillow would start Ghostscript."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: started.append(args))
    eps = saved(rgb(), "EPS")
    gif = saved(rgb(), "GIF")
    for data in (eps, gif, b"", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ImageFileError, match=r"a.png: (not an image|cannot be read)"):
            encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME)
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            info = tarfile.TarInfo("a.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        with pytest.raises(ImageFileError, match=r"a.jpg: (not an image|cannot be read)"):
            encrypt_files(tmp_path / "a.tar", tmp_path / "enc", KEY, SCHEME)
    assert not started


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("edge", (10000, 14000, 100000))
def test_a_picture_larger_than_the_limit_is_not_decoded(tmp_path: Path, edge: int) -> None:
    data = bytearray(saved(rgb(), "PNG"))
    data[16:24] = struct.pack(">II", edge, edge)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageFileError, match=r"a.png: .*; raise max_bytes \(--max-memory\)"):
        encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME)


def test_the_limit_can_be_raised_and_lowered(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match="64 x 64 pixels would take more"):
        encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME, reading=Reading(max_bytes=64 * 64))
    encrypt_files(tmp_path / "a.png", tmp_path / "x.png", KEY, SCHEME, reading=Reading(max_bytes=64 * 64 * 3))
    with pytest.raises(ImageFileError, match="64 x 64 pixels would take more"):
        decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY, max_bytes=64 * 64)


# --- resize, crop ---


@pytest.mark.parametrize("mode", ("L", "RGB", "RGBA", "P"))
def test_resize_and_crop_are_torchvisions(tmp_path: Path, mode: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    smooth = Image.fromarray(noise(6, 9, 4)).resize((63, 41), Image.Resampling.BICUBIC)
    image = smooth.convert(mode) if mode != "P" else smooth.convert("RGB").quantize(64)
    image.save(tmp_path / "a.png")
    for resize, crop in ((32, 24), ((40, 32), (36, 20)), (32, None), (None, 24)):
        reading = Reading(resize=resize, crop=crop)
        pipeline = [transforms.Resize(resize if isinstance(resize, int) else resize[::-1])] if resize else []
        pipeline += [transforms.CenterCrop(crop if isinstance(crop, int) else crop[::-1])] if crop else []
        want = transforms.Compose(pipeline)(image.convert("RGB"))
        encrypt_files(
            tmp_path / "a.png",
            tmp_path / "x.png",
            KEY,
            SCHEME,
            reading=reading,
            fit="pad",
            verify="all",
            force=True,
        )
        decrypt_files(tmp_path / "x.png", tmp_path / "y.png", KEY, force=True)
        np.testing.assert_array_equal(loaded(tmp_path / "y.png"), np.asarray(want))
        (tmp_path / "x.png.json").unlink()


def test_resize_and_crop_that_cannot_be(tmp_path: Path) -> None:
    rgb().save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", noise(3, 8, 8, 3))
    for path, reading, says in (
        ("a.png", Reading(crop=100), "12 x 8 pixels, fewer than the crop 100 x 100"),
        ("a.png", Reading(resize=1_000_000), "would take more than"),
        ("a.npy", Reading(resize=4), "an array; resize and crop are for picture files"),
    ):
        with pytest.raises(ImageFileError, match=says):
            encrypt_files(tmp_path / path, tmp_path / "enc", KEY, SCHEME, reading=reading)
    for field, value in (
        ("resize", 0),
        ("crop", (3, -1)),
        ("resize", (1, 2, 3)),
        ("mode", "grey"),
        ("max_bytes", 0),
    ):
        with pytest.raises(ValueError, match=f"{field}: expected"):
            Reading(**{field: value})


# --- verification, manifests ---


def test_verification_sees_what_reading_would_lose(tmp_path: Path, monkeypatch) -> None:
    """It compares with the file as it is stored, not with what was read of it."""
    exact = pictures.stored
    for kind, lose in (
        ("alpha", lambda image: image.convert("RGB")),
        ("grey", lambda image: image.convert("RGB")),
        ("palette", lambda image: image.convert("RGB")),
        ("turned", lambda image: Image.fromarray(np.asarray(image))),
    ):
        name, make, options = STORED[kind]
        make().save(tmp_path / name, **options)
        monkeypatch.setattr(pictures, "stored", lambda image, *rest, lose=lose: exact(lose(image), *rest))
        with pytest.raises(BlockencError, match="verification failed: image 0 does not come back"):
            encrypt_files(tmp_path / name, tmp_path / "enc", KEY, SCHEME, verify="all")


def test_metadata_is_counted(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    exif = turned(6)
    rgb().save(src / "orientation.jpg", exif=exif)  # nothing is lost
    exif[0x010E] = "a description"
    rgb().save(src / "exif.jpg", exif=exif)
    rgb().save(src / "icc.png", icc_profile=b"profile")
    rgb().save(src / "broken.jpg", exif=b"Exif\0\0" + bytes(200))
    assert encrypt_files(src, tmp_path / "enc", KEY, SCHEME).metadata == 3


def test_folders_of_before_modes(tmp_path: Path) -> None:
    """A manifest without the newer fields: channels as the files had them, and no other run adds to it."""
    src, enc = tmp_path / "src", tmp_path / "enc"
    src.mkdir()
    for name, image in (("l", rgb().convert("L")), ("rgb", rgb()), ("rgba", rgba())):
        image.save(src / f"{name}.png")
    encrypt_files(src, enc, KEY, SCHEME, reading=Reading("keep"))
    manifest = enc / "blockenc.json"
    head, found, rest = manifest.read_text().partition(' "reading"')
    assert found
    manifest.write_text(as_version_2(head + ' "items"' + rest.partition(' "items"')[2]))
    assert set(json.loads(manifest.read_text())["items"]["l.png"]) == {
        "source",
        "width",
        "height",
        "channels",
        "sha256",
    }
    decrypt_files(enc, tmp_path / "dec", KEY, warn=str)
    for name in ("l", "rgb", "rgba"):
        np.testing.assert_array_equal(shown(tmp_path / f"dec/{name}.png"), shown(src / f"{name}.png"))
    with pytest.raises(ManifestError, match="--mode"):
        encrypt_files(src, enc, KEY, SCHEME)
    encrypt_files(src, enc, KEY, SCHEME, reading=Reading("keep"), warn=str)
    assert read_folder(enc).reading == Reading("keep")


@pytest.mark.parametrize(
    "field, value",
    [("mode", "CMYK"), ("mode", "L"), ("orientation", 9), ("palette", "x"), ("orientation", "6")],
)
def test_odd_fields_in_a_manifest(tmp_path: Path, field: str, value: object) -> None:
    rgba().save(tmp_path / "a.png")
    encrypt_files(tmp_path / "a.png", tmp_path / "enc", KEY, SCHEME)
    path = tmp_path / "enc/blockenc.json"
    text = path.read_text()
    line = next(line for line in text.splitlines() if '"a.png": {' in line)
    fields = json.loads("{" + line + "}")["a.png"]
    path.write_text(sealed(text.replace(line, f'  "a.png": {json.dumps({**fields, field: value})}')))
    with pytest.raises(ManifestError, match=field):
        decrypt_files(tmp_path / "enc", tmp_path / "dec", KEY)
