"""Adversarial images for the networks of the grid: what PGD reaches by the keys it goes through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.accuracy.train import key_set
from benchmarks.attacks_models import keys
from benchmarks.attacks_models.target import Target
from blockenc import Cipher
from blockenc.attacks import adversarial

OTHERS = 3  # other keys, one at a time


def by_keys(target: Target, plain: str) -> dict[str, Any]:
    """Through the right key, through others, and with a network that was trained on plain images."""
    others = [_attack(target, [target.cipher(key_set(n))]) for n in range(1, OTHERS + 1)]
    successes = [other["scores"]["success"] for other in others]
    return {
        "right key": _attack(target, [target.cipher()]),
        "another key": {
            **others[0],
            "scores": {"success": sum(successes) / OTHERS},
            "successes": successes,
        },
        "transfer from a plain model": _attack(target, [], surrogate=target.other(plain)),
    }


def eot(target: Target) -> dict[str, Any]:
    """Through many other keys at once."""
    sizes = target.sizes
    ciphers = [target.cipher(key_set(n)) for n in range(1, sizes.eot_keys + 1)]
    return {"EOT": _attack(target, ciphers, steps=sizes.eot_steps)}


def by_estimate(target: Target, search: str) -> dict[str, Any]:
    """Through the key that a recorded search found, and in the encrypted domain."""
    told = json.loads((target.results / f"{target.name}.{search}.json").read_text())
    cipher = Cipher(keys.key_of(told["result"]), target.scheme, gradient="straight-through")
    x, y = _images(target)
    inverse = adversarial.inverse_attack(
        target.asked, target.cipher(), x, y, cipher=cipher, steps=target.sizes.pgd_steps
    )
    return {f"estimated key, {search}": _attack(target, [cipher]), f"inverse, {search}": inverse.to_dict()}


def _attack(target: Target, ciphers: Sequence[Cipher], steps: int = 0, **more: Any) -> dict[str, Any]:
    x, y = _images(target)
    steps = steps or target.sizes.pgd_steps
    found = adversarial.attack(target.asked, target.cipher(), x, y, ciphers=ciphers, steps=steps, **more)
    return found.to_dict()


def _images(target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = target.images(target.sizes.large, target.sizes.pgd_images)
    return x.float() / 255, y
