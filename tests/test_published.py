"""The published-code profile: what the authors' released code computes, restated from its description.

Float images [N, 3, H, W] in [0, 1]; blocks of the channels-last image flattened; shuffle indexes with
randperm; np is 1 - x and ffx a table look-up on (x * 255).long() under the mask randperm > L/2; the ffx
result is divided by the largest table entry.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyffx
import pytest
import torch

import blockenc
from tests import oracle

# Real images are used where they are: a folder of photos in class folders, and CIFAR-10 as one archive.
DATA = Path(os.environ.get("BLOCKENC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def published(x: torch.Tensor, block_size: int, seed: int, password: str) -> dict[str, torch.Tensor]:
    """The three transforms, and all of them in a row."""
    n, c, h, w = x.shape
    m = block_size
    length = m * m * c
    permutation = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    mask = permutation > length / 2
    cipher = pyffx.Integer(password.encode(), length=3)
    table = torch.tensor([cipher.encrypt(value) for value in range(256)])

    def blockwise(step):
        def apply(images):
            v = images.permute(0, 2, 3, 1).reshape(n, h // m, m, w // m, m, c).permute(0, 1, 3, 2, 4, 5)
            v = step(v.reshape(n, h // m, w // m, length).clone())
            v = v.reshape(n, h // m, w // m, m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
            return v.permute(0, 3, 1, 2)

        return apply

    @blockwise
    def shuffle(v):
        return v[..., permutation]

    @blockwise
    def np_(v):
        v[..., mask] = 1 - v[..., mask]
        return v

    @blockwise
    def ffx(v):
        v = (v * 255).long()
        v[..., mask] = table[v[..., mask]]
        return v.float() / table.max()

    return {"shuffle": shuffle(x), "np": np_(x), "ffx": ffx(x), "shuffle,np,ffx": ffx(np_(shuffle(x)))}


def check(images: torch.Tensor, block_size: int, seed: int = 42, password: str = "password") -> None:
    """Float images agree bit for bit; uint8 ones with the integer form of the same steps; both invert."""
    x = images / 255  # what torchvision's ToTensor gives
    keys = blockenc.KeySet.from_seed(seed, password)
    for names, want in published(x, block_size, seed, password).items():
        cipher = blockenc.Cipher(keys, block_size=block_size, steps=tuple(names.split(",")), ffx="decimal")
        assert torch.equal(cipher.encrypt(x), want), names
        encrypted = cipher.encrypt(images)
        if "np" not in names:  # 1 - k/255 truncates to 254 - k for some k; for bytes it is 255 - k
            assert torch.equal(encrypted if "ffx" in names else encrypted / 255, want), names
        assert torch.equal(cipher.decrypt(encrypted, dtype=torch.uint8), images), names


@pytest.mark.parametrize("block_size", (2, 4, 7, 8))
@pytest.mark.parametrize("seed, password", [(42, "password"), (0, ""), (7, "secret")])
def test_synthetic(block_size: int, seed: int, password: str) -> None:
    check(oracle.image((3, 3, 56, 56), seed=seed), block_size, seed, password)


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    blockenc.encrypt(oracle.image((1, 3, 8, 8)), blockenc.KeySet.from_seed(1, "p"), ffx="decimal")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_photos() -> None:
    """96 real photos, each at its own size, cut to a multiple of the block."""
    from PIL import Image

    files = sorted(DATA.glob("imagenet_sample/*/*.JPEG"))
    if not files:
        pytest.skip(f"no photos at {DATA}; BLOCKENC_TEST_DATA names the folder that has imagenet_sample")
    assert len(files) == 96
    for file in files:
        with Image.open(file) as photo:
            pixels = torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1)[None]
        h, w = (size // 16 * 16 for size in pixels.shape[2:])
        check(pixels[:, :, :h, :w], 4)


def test_cifar10() -> None:
    """All 60,000 images of CIFAR-10 (the JPEG form), block size 4."""
    import io

    from PIL import Image

    archive = DATA / "cifar10_jpeg.npz"
    if not archive.exists():
        pytest.skip(f"no CIFAR-10 at {archive}; BLOCKENC_TEST_DATA names the folder that has it")
    with np.load(archive) as source:
        for part in ("train", "test"):
            data, lengths = source[f"{part}_jpeg"], source[f"{part}_length"]
            ends = np.cumsum(lengths)
            images = np.empty((len(lengths), 32, 32, 3), np.uint8)
            for k, (end, length) in enumerate(zip(ends, lengths)):
                with Image.open(io.BytesIO(data[end - length : end].tobytes())) as image:
                    images[k] = np.asarray(image.convert("RGB"))
            for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(5000):
                check(batch, 4)


def test_published_keys_hold_no_readable_password() -> None:
    keys = blockenc.KeySet.from_seed(3, "a-password")
    assert "a-password" not in repr(keys)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(keys)
