"""Attacks on models: each finds the key of a weak case, and finds nothing where there is nothing to find."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from blockenc import Cipher, ExplicitKey, Key, Scheme
from blockenc.blocks import to_images, to_vectors
from blockenc.steps import Colour, Np, Rotate, Scramble, Shuffle

KEY = Key(bytes(range(32)))
RNG = np.random.default_rng(0)

# --- gradients ----------------------------------------------------------------------------------


def gradients(encrypt, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (encrypt(x) * weight).sum().backward()
    assert x.grad is not None
    return x.grad


def restated(x: torch.Tensor, order: np.ndarray, mask: np.ndarray, block_size: int) -> torch.Tensor:
    """shuffle, then np, of every block alike, as torch's own autograd understands it."""
    v = to_vectors(x, block_size)[..., torch.from_numpy(order)]
    v = torch.where(torch.from_numpy(mask), 1 - v, v)
    return to_images(v, block_size, *x.shape[1:])


@pytest.mark.parametrize("steps", [("shuffle", "np"), ("np", "ffx"), ("ffx", "np"), ("shuffle", "np", "ffx")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_a_differentiable_statement(
    steps: tuple[str, ...], dtype: torch.dtype
) -> None:
    """Through ffx the slope is 1; also where its table and np's negatives have become one table."""
    order, mask = RNG.permutation(48), RNG.random(48) < 0.5
    secrets = {"shuffle": order, "np": mask, "ffx": (RNG.random(48) < 0.5, RNG.permutation(256))}
    cipher = Cipher(ExplicitKey([secrets[s] for s in steps]), steps=steps, gradient="straight-through")
    x, weight = torch.rand(2, 3, 8, 12, dtype=dtype), torch.randn(2, 3, 8, 12, dtype=dtype)
    if "shuffle" not in steps:
        order = np.arange(48)
    expected = gradients(lambda v: restated(v, order, mask, 4), x, weight)
    assert torch.equal(gradients(cipher.encrypt, x, weight), expected)
    std = torch.tensor([0.5, 0.25, 2.0], dtype=dtype)
    norm = {"mean": (0.5, 0.5, 0.5), "std": std.tolist()}
    expected = gradients(lambda v: restated(v, order, mask, 4) / std[:, None, None], x, weight)
    assert torch.equal(gradients(lambda v: cipher.encrypt(v, **norm), x, weight), expected)


def test_gradients_leave_the_values_as_they_are() -> None:
    plain, cipher = Cipher(KEY), Cipher(KEY, gradient="straight-through")
    x = torch.rand(2, 3, 8, 8)
    y = cipher.encrypt(x.clone().requires_grad_())
    assert y.requires_grad
    assert torch.equal(y.detach(), plain.encrypt(x))
    assert not cipher.encrypt(x).requires_grad


SCHEMES = {
    "blocks": Scheme(
        4,
        [
            Scramble(period="image"),
            Rotate(period="image"),
            Np(unit="block", period="image"),
            Colour(unit="block", period="image"),
        ],
    ),
    "pixels": Scheme(1, [Np(period="image"), Colour(unit="pixel", period="image")]),
    "periods": Scheme(2, [Shuffle(period=4), Scramble(period=8), Np(block_size=4)]),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_of_version_2(name: str) -> None:
    """What moves and negates values is linear: a difference tells its whole gradient exactly."""
    cipher = Cipher(KEY, SCHEMES[name], gradient="straight-through")
    x, weight = torch.zeros(1, 3, 8, 16, dtype=torch.float64), torch.randn(1, 3, 8, 16, dtype=torch.float64)
    units = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
    differences = ((cipher.encrypt(units) - cipher.encrypt(x)) * weight).sum((1, 2, 3)).reshape(x.shape)
    assert torch.allclose(gradients(cipher.encrypt, x, weight), differences, rtol=0, atol=1e-15)
    back = gradients(cipher.decrypt, x, gradients(cipher.encrypt, x, weight))
    assert torch.allclose(back, weight, rtol=0, atol=1e-15)  # the transpose of what is orthogonal undoes it


def test_gradients_go_through_padding_and_cropping() -> None:
    cipher = Cipher(KEY, fit="pad", steps=["np"], gradient="straight-through")
    x = torch.rand(1, 3, 5, 6)
    grad = gradients(lambda v: cipher.decrypt(cipher.encrypt(v), size=(5, 6)), x, torch.ones(1, 3, 5, 6))
    assert torch.equal(grad, torch.ones_like(x))


def test_gradients_are_asked_for_and_have_limits() -> None:
    x = torch.rand(1, 3, 8, 8)
    cipher = Cipher(KEY, gradient="straight-through")
    with pytest.raises(RuntimeError, match="no derivative"):
        Cipher(KEY).encrypt(x.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="no derivative"):
        cipher.encrypt(x.clone().requires_grad_(), out=torch.empty_like(x))
    with pytest.raises(RuntimeError, match="no derivative"):
        torch.func.grad(lambda v: cipher.encrypt(v).sum())(x)
    with pytest.raises(ValueError, match=r"^x: height and width"):
        cipher.encrypt(torch.rand(1, 3, 7, 8).requires_grad_())
    for wrong in ("exact", True, 1):
        with pytest.raises(ValueError, match=r"^gradient: expected None or 'straight-through', got"):
            Cipher(KEY, gradient=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gradient: .*nibbles"):
        Cipher(KEY, steps=[Shuffle(cells="nibble")], gradient="straight-through")
    with pytest.raises(ValueError, match=r"^gradient: .*per_image"):
        Cipher(KEY, per_image=True, gradient="straight-through")


def test_gradients_of_pickled_ciphers() -> None:
    x, weight = torch.rand(1, 3, 8, 16), torch.randn(1, 3, 8, 16)
    cipher = Cipher(KEY, SCHEMES["blocks"], gradient="straight-through")
    expected = gradients(cipher.prepare(8, 16).encrypt, x, weight)
    for other in (pickle.loads(pickle.dumps(cipher)), copy.deepcopy(cipher)):
        assert torch.equal(gradients(other.encrypt, x, weight), expected)
