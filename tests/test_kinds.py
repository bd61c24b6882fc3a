"""Every kind of image in, the same kind out, in the same layout, without a warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from blockenc import Cipher
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


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "LA"])
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
