"""Every kind of image in, the same kind out, in the same layout, without a warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import blockenc
from blockenc import Cipher
from blockenc.images import encryptable, looks_like_image
from tests import oracle

X = oracle.image((2, 3, 8, 12))
WANT = oracle.expected(X, oracle.secrets(("shuffle", "np", "ffx"), 4, 3), 4)
NHWC = np.ascontiguousarray(X.permute(0, 2, 3, 1).numpy())
WANT_NHWC = WANT.permute(0, 2, 3, 1).numpy()


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "array",
    [
        NHWC,
        read_only(NHWC),
        np.asfortranarray(NHWC),
        np.repeat(NHWC, 2, axis=2)[:, :, ::2],
        NHWC[:, ::-1][:, ::-1].copy()[:, ::-1].copy()[:, ::-1],
        np.frombuffer(NHWC.tobytes(), np.uint8).reshape(NHWC.shape),
    ],
    ids=["plain", "read-only", "Fortran", "sliced", "negative strides", "buffer"],
)
def test_numpy(array: np.ndarray, backend: str) -> None:
    before = array.copy()
    cipher = Cipher(oracle.KEY, backend=backend)
    for x, want in ((array, WANT_NHWC), (array[1], WANT_NHWC[1])):
        y = cipher.encrypt(x)
        assert isinstance(y, np.ndarray)
        assert y.dtype == np.uint8
        assert y.flags.writeable
        assert np.array_equal(y, want)
        assert np.array_equal(cipher.decrypt(y), x)
    assert np.array_equal(array, before)


def test_numpy_floats() -> None:
    cipher = Cipher(oracle.KEY)
    x = (NHWC / 255).astype(np.float32)
    swapped = x.astype(x.dtype.newbyteorder())
    assert np.array_equal(cipher.encrypt(swapped), cipher.encrypt(x))
    assert cipher.encrypt(x.astype(np.float16)).dtype == np.float16
    assert cipher.encrypt(NHWC, dtype=np.float32).dtype == np.float32
    assert np.array_equal(cipher.decrypt(cipher.encrypt(NHWC, dtype="float32"), dtype=np.uint8), NHWC)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "LA", "YCbCr", "HSV", "LAB"])
def test_pil(mode: str) -> None:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = oracle.image((8, 12, channels)).numpy()
    image = Image.frombytes(mode, (12, 8), pixels.tobytes())
    cipher = Cipher(oracle.KEY, channels=channels)
    encrypted = cipher.encrypt(image)
    assert (encrypted.mode, encrypted.size) == (image.mode, image.size)
    assert np.array_equal(np.asarray(encrypted).reshape(pixels.shape), cipher.encrypt(pixels))
    assert cipher.decrypt(encrypted).tobytes() == image.tobytes()


class DlpackArray:
    """An array library of its own, of which only the DLPack protocol is known."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __array_namespace__(self):
        return DlpackArray

    @staticmethod
    def from_dlpack(tensor: torch.Tensor) -> DlpackArray:
        return DlpackArray(torch.from_dlpack(tensor))


def test_dlpack() -> None:
    cipher = Cipher(oracle.KEY)
    y = cipher.encrypt(DlpackArray(torch.from_numpy(NHWC)))
    assert isinstance(y, DlpackArray)
    assert np.array_equal(y.tensor.numpy(), WANT_NHWC)
    assert torch.equal(cipher.decrypt(y).tensor, torch.from_numpy(NHWC))


def test_single_images_and_expanded_ones(backend: str) -> None:
    cipher = Cipher(oracle.KEY, backend=backend)
    for x in (X[0], X.contiguous(memory_format=torch.channels_last)[0]):
        assert torch.equal(cipher.encrypt(x), WANT[0])
        assert cipher.encrypt(x).stride() == x.stride()
    assert torch.equal(cipher.encrypt(X[:1].expand(5, -1, -1, -1)), WANT[:1].expand(5, -1, -1, -1))


BASE = oracle.image((4, 6, 16, 24))
LAYOUTS = {
    "contiguous": lambda t: t[:2, :3, :8, :12].contiguous(),
    "channels_last": lambda t: t[:2, :3, :8, :12].contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: t[1:3, 2:5, 3:11, 5:17],
    "every other": lambda t: t[::2, ::2, ::2, ::2],
    "expanded": lambda t: t[:1, :3, :8, :12].expand(3, -1, -1, -1),
    "grey expanded": lambda t: t[:2, :1, :8, :12].expand(-1, 3, -1, -1),
    "transposed": lambda t: t[:2, :3, :12, :8].transpose(2, 3),
    "batch innermost": lambda t: t[:2, :3, :8, :12].permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one image": lambda t: t[0, :3, :8, :12].contiguous(),
    "one HWC image": lambda t: t[0, :3, :8, :12].permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "offset by one": lambda t: t.flatten()[1 : 1 + 576].view(2, 3, 8, 12),
}
DTYPES = [torch.uint8, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_layouts(layout: str, dtype: torch.dtype, backend: str) -> None:
    """Values as from the contiguous tensor; dtype and memory layout as PyTorch's own operators keep them."""
    x = LAYOUTS[layout](BASE if dtype == torch.uint8 else (BASE.float() / 255).to(dtype))
    steps = ("shuffle", "np", "ffx") if dtype == torch.uint8 else ("shuffle",)
    cipher = Cipher(oracle.KEY, steps=steps, backend=backend)
    before = x.clone()
    y = cipher.encrypt(x)
    assert (type(y), y.dtype, y.shape, y.stride()) == (
        torch.Tensor,
        dtype,
        x.shape,
        torch.empty_like(x).stride(),
    )
    assert torch.equal(y, cipher.encrypt(x.contiguous()))
    assert not torch.equal(y, x)
    assert torch.equal(cipher.decrypt(y), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_of_any_layout(dtype: torch.dtype, backend: str) -> None:
    """out may be a slice or permuted: its elements are written, the bytes around them are not."""
    cipher = Cipher(oracle.KEY, backend=backend)
    want = cipher.encrypt(X, dtype=dtype)
    room = torch.full((4, 14, 6, 10), 0.5 if dtype.is_floating_point else 77, dtype=dtype)
    guard = room[0, 0, 0, 0].item()
    out = room.permute(0, 2, 3, 1)[1:3, 1:4, 1:9, 1:13]
    assert cipher.encrypt(X, out=out) is out
    assert torch.equal(out, want)
    out.fill_(guard)
    assert (room == guard).all()


def test_numpy_layout_is_kept() -> None:
    cipher = Cipher(oracle.KEY)
    for array in (NHWC, np.asfortranarray(NHWC), NHWC[0], np.asfortranarray(NHWC[0])):
        assert cipher.encrypt(array).strides == array.strides


def test_odd_numpy_memory() -> None:
    """Fields of records, unaligned buffers and swapped bytes hold the same images."""
    cipher = Cipher(oracle.KEY)
    x = (NHWC / 255).astype(np.float32)
    record = np.zeros(x.shape, [("value", "f4"), ("flag", "u1")])
    record["value"] = x
    unaligned = np.frombuffer(b"-" + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    for odd in (record["value"], unaligned, x.astype(">f4"), np.flip(np.flip(x).copy())):
        assert np.array_equal(cipher.encrypt(odd), cipher.encrypt(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dlpack_types(dtype: torch.dtype) -> None:
    cipher = Cipher(oracle.KEY, steps=("shuffle",))
    x = torch.from_numpy(NHWC) if dtype == torch.uint8 else (torch.from_numpy(NHWC) / 255).to(dtype)
    y = cipher.encrypt(DlpackArray(x))
    assert (type(y), y.tensor.dtype, y.tensor.shape) == (DlpackArray, dtype, x.shape)
    assert torch.equal(y.tensor.movedim(-1, 1), cipher.encrypt(x.movedim(-1, 1)))
    assert torch.equal(cipher.decrypt(y).tensor, x)


# --- axes ---

GREY = oracle.image((5, 1, 8, 12))


def test_grey_images_need_no_axis_of_channels() -> None:
    """[H, W], and [N, H, W] of arrays, under one channel: the same values, the same shape back.

    Of torch tensors [N, H, W] would be [C, H, W] for some N, so it is for none.
    """
    cipher = Cipher(oracle.KEY, channels=1)
    want = cipher.encrypt(GREY)[:, 0]
    for x in (GREY[:, 0], GREY[0, 0]):
        expected = want if x.dim() == 3 else want[0]
        assert np.array_equal(cipher.encrypt(x.numpy()), expected.numpy())
        assert torch.equal(cipher.encrypt(DlpackArray(x)).tensor, expected)
    assert torch.equal(cipher.encrypt(GREY[0, 0]), want[0])
    assert torch.equal(cipher.encrypt(GREY[0, 0], out=torch.empty_like(GREY[0, 0])), want[0])
    assert torch.equal(cipher.decrypt(cipher.encrypt(GREY[0, 0])), GREY[0, 0])
    for n in range(2, 6):
        with pytest.raises(ValueError, match=rf"expected 1 channels.*got {n}"):
            cipher.encrypt(torch.zeros(n, 8, 8, dtype=torch.uint8))
    assert np.array_equal(blockenc.encrypt(GREY[0, 0].numpy(), oracle.KEY), want[0].numpy())
    floats = GREY[0, 0].numpy().astype(np.float32) / 255
    assert blockenc.encrypt(floats, oracle.KEY).shape == floats.shape


def test_a_stack_of_square_grey_arrays_is_no_image_of_many_channels() -> None:
    stack = oracle.image((6, 28, 28)).numpy()
    encrypted = blockenc.encrypt(stack, oracle.KEY)
    assert np.array_equal(encrypted[2], blockenc.encrypt(stack[2], oracle.KEY))
    assert np.array_equal(blockenc.decrypt(encrypted, oracle.KEY), stack)


@pytest.mark.parametrize(
    "x, says",
    [
        (np.zeros((6, 28, 32), "u1"), "channels=32.*channels=1 if these are grey"),
        (np.zeros((64, 64, 12), "u1"), "channels=12"),
        (np.zeros((64, 64, 2), "u1"), "channels=2"),
        (np.zeros((2, 64, 64, 12), "u1"), r"channels=12 if it has 12$"),
        (
            np.zeros((3, 64, 64), "u1"),
            r"channels-last, \[H, W, C\]; this one looks channels-first: numpy.moveaxis",
        ),
        (np.zeros((2, 3, 64, 64), "u1"), "looks channels-first"),
        (torch.zeros(60, 28, 28).byte(), "channels=60.*channels=1"),
        (torch.zeros(12, 64, 64).byte(), "channels=12"),
        (
            torch.zeros(64, 64, 3).byte(),
            r"channels-first, \[C, H, W\]; this one looks channels-last: x.movedim",
        ),
    ],
    ids=lambda value: str(list(value.shape)) if hasattr(value, "shape") else "",
)
def test_axes_are_not_guessed(x, says: str) -> None:
    for call in (blockenc.encrypt, blockenc.decrypt):
        with pytest.raises(ValueError, match=f"^x: shape.*{says}"):
            call(x, oracle.KEY)


def test_channels_may_be_said() -> None:
    bands = oracle.image((12, 8, 8))
    assert torch.equal(
        blockenc.encrypt(bands, oracle.KEY, channels=12), Cipher(oracle.KEY, channels=12).encrypt(bands)
    )
    stacked = blockenc.encrypt(bands.numpy(), oracle.KEY, channels=1)
    assert np.array_equal(stacked[3], blockenc.encrypt(bands[3].numpy(), oracle.KEY, channels=1))
    with pytest.raises(ValueError, match=r"expected 1 channels.*got 3"):  # no three grey images
        Cipher(oracle.KEY, channels=1).encrypt(bands[:3])
    with pytest.raises(
        ValueError, match=r"expected 3 channels.*got 8.*\[H, W, C\]; this one looks channels-first"
    ):
        Cipher(oracle.KEY).encrypt(bands[:3].numpy())
    with pytest.raises(ValueError, match=r"expected 3 channels.*this one looks channels-last"):
        Cipher(oracle.KEY).encrypt(bands[:3].permute(1, 2, 0))


@pytest.mark.parametrize(
    "mode, advice",
    [("P", 'convert("RGB")'), ("1", 'convert("L")'), ("I;16", "65535"), ("I", "65535"), ("F", "scaled")],
)
def test_the_advice_for_a_mode_loses_nothing(mode: str, advice: str) -> None:
    image = Image.new(mode, (8, 8))
    with pytest.raises(ValueError, match=f"got '{mode}'") as caught:
        blockenc.encrypt(image, oracle.KEY)
    assert advice in str(caught.value)
    assert ("convert" in str(caught.value)) == (mode in ("P", "1"))


# --- float64 ---


@pytest.mark.parametrize("ffx", ["byte", "decimal"])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_float64_bytes_come_back_exactly(kind: str, ffx: str) -> None:
    integers, floats = (X, X.double() / 255) if kind == "tensor" else (NHWC, NHWC / 255.0)
    cipher = Cipher(oracle.KEY, ffx=ffx)
    encrypted = cipher.encrypt(integers, dtype=np.float64)
    assert str(encrypted.dtype).endswith("float64")
    assert (cipher.decrypt(encrypted) == floats).all()
    assert (cipher.decrypt(encrypted, dtype=np.uint8) == integers).all()
    if ffx == "byte":  # floats on the grid k/255 are the bytes k
        assert (cipher.encrypt(floats) == encrypted).all()
        assert (cipher.encrypt((floats - 0.4 / 255).clip(0, 1)) == encrypted).all()  # to the nearest byte
        assert ((encrypted * 255).round() / 255 == encrypted).all()
        assert (cipher.encrypt(floats, dtype=np.uint8) == cipher.encrypt(integers)).all()


def test_float64_keeps_every_bit_where_nothing_quantises() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shuffle = Cipher(oracle.KEY, steps=("shuffle",))
    y = shuffle.encrypt(x)
    assert torch.equal(y.flatten(1).sort().values, x.flatten(1).sort().values)
    assert torch.equal(shuffle.decrypt(y), x)
    flips = Cipher(oracle.KEY, steps=("np",)).encrypt(x)
    assert ((flips == x) | (flips == 1 - x)).all()
    std = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.equal(shuffle.encrypt(x, mean=[0.5] * 3, std=std.tolist()), (y - 0.5) / std[:, None, None])
    out = torch.empty_like(x)
    assert shuffle.encrypt(x, out=out) is out
    assert torch.equal(out, y)
    with pytest.raises(RuntimeError, match="requires grad"):
        shuffle.encrypt(x.clone().requires_grad_())
    with pytest.raises(ValueError, match="multiples of the block size"):
        shuffle.encrypt(x[..., :7])
    x[0, 0, 0, 0] = 1 + 1e-9  # as resizing leaves: clamped
    assert shuffle.encrypt(x).max() == 1
    x[0, 0, 0, 0] = 1.1
    with pytest.raises(ValueError, match=r"got 1\.1 at"):
        shuffle.encrypt(x)


# --- sizes ---


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_fit(fit: str) -> None:
    """The encryption of what np.pad (edge) or slicing gives; after padding, decrypt cuts it off again."""
    cipher, plain = Cipher(oracle.KEY, fit=fit), Cipher(oracle.KEY)
    x = NHWC[:, :6, :9]
    fitted = np.pad(x, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="edge") if fit == "pad" else x[:, :4, :8]
    want = plain.encrypt(fitted)
    assert np.array_equal(cipher.encrypt(x), want)
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2)
    assert torch.equal(cipher.encrypt(tensor), torch.from_numpy(want).permute(0, 3, 1, 2))
    assert np.array_equal(np.asarray(cipher.encrypt(Image.fromarray(x[0]))), want[0])
    assert np.array_equal(blockenc.encrypt(x, oracle.KEY, fit=fit), want)
    assert np.array_equal(cipher.encrypt(NHWC), plain.encrypt(NHWC))
    out = torch.empty(2, 3, *want.shape[1:3], dtype=torch.uint8)
    assert torch.equal(cipher.encrypt(tensor, out=out).permute(0, 2, 3, 1), torch.from_numpy(want))
    if fit == "pad":
        assert np.array_equal(cipher.decrypt(want, size=(6, 9)), x)
        assert np.array_equal(blockenc.decrypt(want, oracle.KEY, size=(6, 9)), x)
        back = plain.decrypt(cipher.encrypt(Image.fromarray(x[0])), size=(6, 9))
        assert np.array_equal(np.asarray(back), x[0])


def test_fit_is_the_users_choice_and_decrypt_pads_nothing() -> None:
    cipher = Cipher(oracle.KEY, fit="pad")
    with pytest.raises(ValueError, match="multiples of the block size 4, got 7"):
        cipher.decrypt(X[:, :, :7])
    with pytest.raises(ValueError, match='fit="pad"'):
        Cipher(oracle.KEY, fit="crop").encrypt(X[..., :3])
    with pytest.raises(ValueError, match="fit: expected one of error, pad, crop, got 'edge'"):
        Cipher(oracle.KEY, fit="edge")
    for size in ((8, 7), (9, 12), (0, 12)):
        with pytest.raises(ValueError, match="size: expected the height and width before padding"):
            cipher.decrypt(X, size=size)
    with pytest.raises(TypeError, match="size: expected"):
        cipher.decrypt(X, size=8)


# --- what looks like an image ---

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PHOTO = np.zeros((16, 16, 3), "u1")
PICTURES = {
    "PIL image of any mode": Image.new("P", (4, 4)),
    "tensor": torch.zeros(3, 16, 16).byte(),
    "tensor, channels last": torch.zeros(16, 16, 3).byte(),
    "normalised tensor": torch.randn(3, 16, 16),
    "float64 array": PHOTO / 255.0,
    "int64 array": PHOTO.astype(int),
    "16 bits": np.zeros((16, 16), "u2"),
    "grey": np.zeros((16, 16), "u1"),
    "grey floats": np.zeros((16, 16), "f4"),
    "grey stack": np.zeros((64, 16, 16), "u1"),
    "alpha": torch.zeros(4, 16, 16),
    "video": torch.zeros(10, 3, 16, 16),
    "video, channels first": torch.zeros(3, 10, 16, 16),
    "batch of videos": torch.zeros(2, 10, 16, 16, 3),
    "DLPack": DlpackArray(torch.zeros(3, 16, 16)).tensor,
    "records": np.zeros((16, 16), [("r", "u1"), ("g", "u1")]),
    "void": np.zeros(16, "V768"),
    "objects": np.array([Image.new("L", (4, 4)), None], object),
    "encoded": PNG,
    "encoded, bytearray": bytearray(PNG),
    "encoded, array": np.frombuffer(PNG, "u1"),
    "raw": bytes(3072),
    "flat": np.arange(784, dtype="u1"),
    "base64": "iVBORw0KGgo" + "A" * 100,
    "data URI": "data:image/png;base64,AAAA",
    "nested lists": PHOTO.tolist(),
    "set": {PNG},
}
OTHERS = {
    "number": 7,
    "None": None,
    "text": "a photo of a cat " * 30,
    "path": "/data/photos/cat.png",
    "text in bytes": b"a photo of a cat " * 30,
    "boxes": torch.zeros(12, 4),
    "points": torch.zeros(17, 3),
    "one-hot": np.zeros(1000, "f4"),
    "token mask": np.ones(512, "u1"),
    "rotation": np.zeros((3, 3)),
    "camera": torch.zeros(4, 4),
    "embedding": torch.randn(77, 768),
    "class mask": torch.zeros(16, 16, dtype=torch.int64),
    "truth values": np.zeros((16, 16), bool),
    "instance masks": np.zeros((3, 16, 16), bool),
    "spectrum": torch.zeros(3, 16, 16, dtype=torch.complex64),
    "ids": list(range(1000)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_looks_like_an_image(name: str) -> None:
    assert looks_like_image(PICTURES[name], 3)


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not(name: str) -> None:
    assert not looks_like_image(OTHERS[name], 3)
    assert not encryptable(OTHERS[name], 3) or name == "spectrum"


def test_the_schemes_channels_count() -> None:
    bands = torch.zeros(12, 16, 16)
    bands -= 1
    assert not looks_like_image(bands, 3)
    assert looks_like_image(bands, 12)


def test_the_default_type_changes_nothing(backend: str) -> None:
    """torch.set_default_dtype is about tensors that a user makes."""
    stage = {"dtype": torch.float32, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    cases = [
        (Cipher(oracle.KEY, backend=backend), X),
        (Cipher(oracle.KEY, steps=["np"], backend=backend), X / 255),
    ]
    want = [cipher.encrypt(x, **stage) for cipher, x in cases]
    torch.set_default_dtype(torch.float64)
    try:
        assert all(torch.equal(cipher.encrypt(x, **stage), y) for (cipher, x), y in zip(cases, want))
    finally:
        torch.set_default_dtype(torch.float32)
