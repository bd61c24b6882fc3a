"""Every kind of image in, the same kind out; workers and threads."""

from __future__ import annotations

import multiprocessing
import threading
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


def test_python_threads(backend: str) -> None:
    """Many callers at once, each with a batch large enough for several native threads."""
    cipher = Cipher(oracle.KEY, backend=backend)
    batches = [oracle.image((16, 3, 64, 64), seed=n) for n in range(8)]
    want = [cipher.encrypt(batch) for batch in batches]
    results: list[bool] = []

    def work(n: int) -> None:
        results.extend(torch.equal(cipher.encrypt(batches[n]), want[n]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


class EncryptedSet(torch.utils.data.Dataset):
    def __init__(self, cipher: Cipher) -> None:
        self.cipher = cipher
        self.images = [oracle.image((8, 3, 128, 128), seed=n) for n in range(6)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> torch.Tensor:
        if self.cipher.backend != "aten":  # torch's own threads do not survive a fork; ours do
            torch.set_num_threads(2)  # a worker starts with one
        return self.cipher.encrypt(self.images[n])


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_loader_workers(backend: str, start: str) -> None:
    """After the parent has used its threads, forked and spawned workers encrypt as it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
        data = EncryptedSet(Cipher(oracle.KEY, backend=backend))
        want = [data[n] for n in range(len(data))]
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=None,
            num_workers=2,
            timeout=60,
            multiprocessing_context=multiprocessing.get_context(start),
        )
        assert all(torch.equal(got, expected) for got, expected in zip(loader, want, strict=True))
