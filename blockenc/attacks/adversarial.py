"""Adversarial images for a model whose key the attacker does not have: PGD through ciphers.

The attacker has the model with its weights, and plain images, which it changes by at most epsilon a value.
The victim encrypts the changed images under the right key. What the attacker lacks is that key, so it
differentiates through another one, an estimated one, several at once, or asks another model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from blockenc.attacks.base import Result
from blockenc.cipher import Cipher, as_cipher
from blockenc.hidden import hide

Differentiable = Callable[[torch.Tensor], torch.Tensor]
EPSILON = 8 / 255


def pgd(
    views: Sequence[Differentiable],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epsilon: float = EPSILON,
    step: float = 2 / 255,
    steps: int = 20,
    seed: int = 0,
) -> torch.Tensor:
    """Images that differ from x by at most epsilon a value, and raise the mean loss of all views (PGD, Madry
    and others, arXiv 1706.06083, L-infinity, from a random start).

    views: functions from images to logits that autograd can differentiate. Several are the expectation over
        transformations (EOT, Athalye and others, arXiv 1707.07397).
    x: floats [N, C, H, W] in [0, 1]. y: labels, int64 [N].

    >>> x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    >>> changed = pgd([lambda v: v.flatten(1)], x, y, epsilon=0.25, step=0.1)
    >>> changed.flatten()
    tensor([0.2500, 0.7500])
    """
    if not views:
        raise ValueError("views: expected at least one function, got none")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(x.shape, generator=generator).to(x) * 2 - 1
    changed = (x + epsilon * noise).clamp(0, 1)
    for _ in range(steps):
        total = torch.zeros_like(x)
        for view in views:
            moved = changed.clone().requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(view(moved), y), moved)
            total += slope
        changed = (changed + step * total.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
    return changed


def attack(
    model: Differentiable,
    victim: Cipher | None,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    ciphers: Sequence[Cipher] = (),
    surrogate: Differentiable | None = None,
    **options: float,
) -> Result:
    """PGD on plain images through ciphers of the attacker (arXiv 2010.00801, adaptive attacks).

    model: encrypted images, floats, to logits; differentiable.
    victim: what the victim encrypts with; for the scores only. None: it does not encrypt.
    ciphers: the attacker's, made with gradient="straight-through": under another key, an estimated one, or
        many (EOT). None at all: plain images go to the attacker's model as they are.
    surrogate: the attacker's own model (transfer), in the place of the victim's.
    options: of `pgd`.

    Scores: "success", the part of the images that the victim classified rightly and no longer does (not a
    number where there were none). `recovered`: the changed images. Raises ValueError naming the argument.

    >>> from blockenc import Key
    >>> cipher = Cipher(Key.generate(), channels=1, steps=["np"], gradient="straight-through")
    >>> x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    >>> attack(lambda v: v.flatten(1), cipher, x, y, ciphers=[cipher], steps=5).used
    {'images': 2, 'gradients': 5}
    """
    if victim is not None:
        victim = hide(victim)
        victim = as_cipher(victim, "victim")
    _check(ciphers)
    asked = model if surrogate is None else surrogate
    views = [_through(cipher, asked) for cipher in ciphers] or [asked]
    changed = pgd(views, x, y, **options)  # type: ignore[arg-type]
    return _result("PGD", model, victim, x, y, changed, int(options.get("steps", 20)) * len(views))


def inverse_attack(
    model: Differentiable,
    victim: Cipher | None,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    cipher: Cipher,
    **options: float,
) -> Result:
    """PGD on images encrypted under the attacker's key, decrypted (arXiv 2010.00801, inverse attack).

    No gradient goes through the cipher. The bound is kept in the encrypted domain: shuffle and np keep it,
    and under ffx the decrypted images may differ by more. "largest change" in `used` says by how much.

    Arguments and scores: as for `attack`.

    >>> from blockenc import Key
    >>> cipher = Cipher(Key.generate(), channels=1, steps=["np"])
    >>> x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    >>> inverse_attack(lambda v: v.flatten(1), cipher, x, y, cipher=cipher, steps=5).attack
    'inverse PGD'
    """
    cipher = hide(cipher)
    cipher = as_cipher(cipher)
    changed = cipher.decrypt(pgd([model], cipher.encrypt(x), y, **options))  # type: ignore[arg-type]
    return _result("inverse PGD", model, victim, x, y, changed, int(options.get("steps", 20)))


def _through(cipher: Cipher, model: Differentiable) -> Differentiable:
    return lambda x: model(cipher.encrypt(x))


def _check(ciphers: Sequence[Cipher]) -> None:
    for n, cipher in enumerate(ciphers):
        if cipher.gradient is None:
            raise ValueError(f"ciphers[{n}]: expected one made with gradient='straight-through'")


@torch.no_grad()
def _result(
    name: str,
    model: Differentiable,
    victim: Cipher | None,
    x: torch.Tensor,
    y: torch.Tensor,
    changed: torch.Tensor,
    gradients: int,
) -> Result:
    def right(images: torch.Tensor) -> torch.Tensor:
        return model(images if victim is None else victim.encrypt(images)).argmax(1) == y

    before = right(x)
    lost = before & ~right(changed)
    success = float(lost.sum() / before.sum()) if before.any() else float("nan")
    used: dict[str, float] = {"images": len(y), "gradients": gradients}
    if name.startswith("inverse"):
        used["largest change"] = float((changed - x).abs().max())
    return Result(name, {"success": success}, used, changed)
