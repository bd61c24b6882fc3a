"""Any scheme through every attack that applies to it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from blockenc.attacks.base import Result
from blockenc.attacks.measures import perceptual
from blockenc.attacks.registry import ATTACKS, Attack, Situation
from blockenc.cipher import Cipher
from blockenc.hidden import hide, reveal
from blockenc.keys import Key
from blockenc.scheme import Scheme

LEAST_IMAGES = 2


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the attacks came to.

    results: by the attacks' names. left_out: why an attack was not run, by name. key_space_bits: see
    `Scheme.key_space_bits`.
    """

    scheme: Scheme
    key_space_bits: float
    results: dict[str, Result]
    left_out: dict[str, str]

    def __str__(self) -> str:
        """One line an attack: its name, its scores, what it used."""
        lines = [f"key space: {self.key_space_bits:,.0f} bits"]
        for name, result in self.results.items():
            found = ", ".join(f"{score} {value:.3g}" for score, value in result.scores.items())
            used = ", ".join(f"{value:g} {what}" for what, value in result.used.items() if what != "seconds")
            lines.append(f"{name}: {found} ({used})")
        return "\n".join([*lines, *(f"{name}: left out, {why}" for name, why in self.left_out.items())])


def judge(
    scheme: Scheme,
    images: Any,
    *,
    per_image: bool = False,
    minutes: float | None = None,
    attacks: tuple[Attack, ...] = ATTACKS,
    done: Mapping[str, Result] = MappingProxyType({}),
    after_each: Callable[[Result, Situation], None] | None = None,
    key: Key | None = None,
    seed: int = 0,
    features: Callable[[torch.Tensor], Sequence[torch.Tensor]] | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Judgement:
    """Runs a scheme through all attacks that apply to it.

    scheme: any. images: plain images as `Cipher.encrypt` takes them, a batch of at least 2 of one size: the
        first half is the attackers' own, of which they know the encryptions where they have pairs; the other
        half is attacked.
    per_image: every image has a key of its own. minutes: of the attacks together; those for which none are
        left are left out. attacks: a part of the registry, or more. done: results of before, which are kept.
    after_each: is called with each result, and what the attack had. key: the secret key; default: a new one.
    features: of a network that sees plain images, as `measures.perceptual` takes them: attacks with an "SSIM"
        are then also scored by "perceptual distance", of which less is better for the attacker.
    more: what attacks of other kinds need.

    Raises TypeError or ValueError for images that the scheme does not take.

    >>> import blockenc
    >>> photos = torch.arange(256, dtype=torch.uint8).repeat(4, 3, 16, 1)[..., :16].contiguous()
    >>> found = judge(blockenc.schemes.SHF(), photos, attacks=ATTACKS[3:5])
    >>> found.results["chosen plaintext"].scores["share"], round(found.key_space_bits)
    (1.0, 203)
    """
    if key is not None:
        key = hide(key)
        if not isinstance(key, Key):
            raise TypeError(f"key: expected a Key, got {type(reveal(key)).__name__}")
    plain = _as_images(images, scheme)
    cipher = Cipher(key or Key.generate(), scheme, per_image=per_image)
    other = Cipher(Key.generate() if key is None else key.derive("another"), scheme, per_image=per_image)
    half = len(plain) // 2
    situation = Situation(
        scheme=scheme,
        encrypted=_encrypts(cipher, "attacked")(plain[half:]),
        original=plain[half:],
        pairs=(plain[:half], _encrypts(cipher, "pairs")(plain[:half])),
        oracle=_encrypts(cipher, "oracle"),
        other=_encrypts(other, "attacked")(plain[half:]),
        per_image=per_image,
        seed=seed,
        more=more,
    )
    end = None if minutes is None else time.monotonic() + 60 * minutes
    results, left_out = dict(done), {}
    for attack in attacks:
        if attack.name in results:
            continue
        left = float("inf") if end is None else end - time.monotonic()
        reason = attack.why_not(situation) or ("no time left" if left <= 0 else "")
        if reason:
            left_out[attack.name] = reason
            continue
        result = attack.run(dataclasses.replace(situation, seconds=left))
        if features is not None and "SSIM" in result.scores:
            result = _with_distance(result, situation, features)
        results[attack.name] = result
        if after_each is not None:
            after_each(result, situation)
    bits = scheme.key_space_bits(*plain.shape[-2:])
    return Judgement(scheme, bits, results, left_out)


def recovered_images(result: Result, situation: Situation) -> torch.Tensor | None:
    """The first images under attack as an attack left them, uint8 [N, C, H, W], if it is one that recovers
    images, or a transform; None otherwise."""
    recovered = situation.encrypted if result.attack == "none" else result.recovered
    if hasattr(recovered, "decrypt"):
        recovered = recovered.decrypt(situation.encrypted)
    is_images = isinstance(recovered, torch.Tensor) and recovered.dtype == torch.uint8
    return recovered if is_images else None


def _with_distance(
    result: Result, situation: Situation, features: Callable[[torch.Tensor], Sequence[torch.Tensor]]
) -> Result:
    images = recovered_images(result, situation)
    assert images is not None, f"{result.attack} has an SSIM and no images"
    distance = perceptual(images, situation.original[: len(images)], features)
    return dataclasses.replace(result, scores={**result.scores, "perceptual distance": distance})


def _as_images(images: Any, scheme: Scheme) -> torch.Tensor:
    """uint8 [N, C, H, W], on the CPU."""
    x = images if isinstance(images, torch.Tensor) else torch.as_tensor(images).permute(0, 3, 1, 2)
    if x.dtype != torch.uint8 or x.ndim != 4 or len(x) < LEAST_IMAGES or x.shape[1] != scheme.channels:
        raise ValueError(
            f"images: expected at least {LEAST_IMAGES} of uint8 and {scheme.channels} channels, "
            f"got {x.dtype} {list(x.shape)}"
        )
    return x.cpu().contiguous()


def _encrypts(cipher: Cipher, purpose: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Encrypts, with an id for each image that no other has where the cipher wants them."""
    dtype = torch.uint16 if cipher.scheme.is_decimal else torch.uint8
    count = 0

    def encrypt(images: torch.Tensor) -> torch.Tensor:
        nonlocal count
        ids = [f"{purpose} {count + n}" for n in range(len(images))] if cipher.per_image else None
        count += len(images)
        found: torch.Tensor = cipher.encrypt(images, dtype=dtype, ids=ids)
        return found

    return encrypt
