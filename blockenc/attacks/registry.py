"""What attacks there are on images, what each needs, and to which schemes it applies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from blockenc.attacks import ciphertext_only, jigsaw, learned, plaintext, reconstruction, statistics
from blockenc.attacks.base import Result
from blockenc.attacks.measures import scores
from blockenc.scheme import Scheme
from blockenc.steps import Np

MOST_EASY_BLOCKS = 400

Encrypts = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Situation:
    """All that any attack may have; each uses what it says that it has.

    scheme: public. encrypted: uint8 [N, C, H, W], the images under attack (uint16 after a decimal ffx).
    original: what they were, for the scores. pairs: other images and their encryptions. oracle: encrypts what
        the attacker likes; under `per_image`, each image with a key of its own. other: the images under
        attack encrypted under another key. seconds: what is left of the budget. seed: of all that is random.
    more: what attacks of other kinds need, by name, for instance a model.
    """

    scheme: Scheme
    encrypted: torch.Tensor
    original: torch.Tensor
    pairs: tuple[torch.Tensor, torch.Tensor]
    oracle: Encrypts
    other: torch.Tensor
    per_image: bool = False
    seconds: float = float("inf")
    seed: int = 0
    more: Mapping[str, Any] = dataclasses.field(default_factory=lambda: MappingProxyType({}))


@dataclasses.dataclass(frozen=True)
class Attack:
    """One row of the registry.

    name: of the attack, as in its results. has: what its attacker has, in words. score: the name of the one
    score that stands for it in tables. chance: what that score is where nothing is recovered; None where it
    depends on the images. count: what it used, by its name in `Result.used`. why_not: why it does not apply
    to a situation, "" where it does. run: the attack.
    """

    name: str
    has: str
    score: str
    chance: float | None
    count: str
    why_not: Callable[[Situation], str]
    run: Callable[[Situation], Result]


def _bytes_only(situation: Situation) -> str:
    return "values beyond bytes" if situation.scheme.is_decimal else ""


def _one_transform(situation: Situation) -> str:
    if situation.per_image:
        return "every image has a key of its own"
    return plaintext.refusal(situation.scheme)


def _alike(situation: Situation) -> bool:
    """Whether the same is done to every block of the scheme's size, and no block moves."""
    return not situation.scheme.depends_on_size and not situation.per_image


def _only(kind: str, situation: Situation) -> str:
    scheme = situation.scheme
    return _bytes_only(situation) or ("" if set(scheme.kinds) == {kind} else f"other steps than {kind}")


def _why_no_frequencies(situation: Situation) -> str:
    return _only("ffx", situation) or ("" if _alike(situation) else "not the same for all blocks")


def _why_no_correlations(situation: Situation) -> str:
    if why := _only("np", situation):
        return why
    if any(step != Np(step.block_size, step.period) for step in situation.scheme.bound_steps):
        return "np of nibbles, or of whole blocks"
    return "every image has a key of its own" * situation.per_image


def _no_attack(s: Situation) -> Result:
    return Result("none", scores(s.encrypted, s.original), {"images": float(len(s.encrypted))})


def _sensitivity(s: Situation) -> Result:
    found = statistics.sensitivity(s.original, s.oracle, s.other)
    return Result("sensitivity", found, {"images": float(len(s.original))})


def _np_correlations(s: Situation) -> Result:
    """With twice as many images each time until the mask is whole."""
    block_size = None if s.scheme.depends_on_size else s.scheme.side
    first = None
    for count in plaintext.doubling(len(s.encrypted)):
        found = reconstruction.np_correlations(s.encrypted[:count], s.original[:count], block_size)
        first = found.scores["mask"] if first is None else first
        if found.scores["mask"] == 1:
            break
    assert first is not None
    return dataclasses.replace(found, scores={**found.scores, "mask of 1 image": first})


def _jigsaw(s: Situation) -> Result:
    """Of as many images as take minutes: the time grows with the square of the number of blocks."""
    blocks = s.original[0, 0].numel() // min(step.block_size or 1 for step in s.scheme.bound_steps) ** 2
    count = 8 if blocks <= MOST_EASY_BLOCKS else 2
    return jigsaw.jigsaw(s.scheme, s.encrypted[:count], s.original[:count])


def _why_not_learned(s: Situation) -> str:
    side = max(s.scheme.side, learned.LEAST_BLOCK)
    if any(size % side or size < learned.CROP for size in s.original.shape[-2:]):
        return f"images that are smaller than {learned.CROP} pixels, or no multiple of {side}"
    return _bytes_only(s)


ATTACKS: tuple[Attack, ...] = (
    Attack("none", "encrypted images", "SSIM", None, "images", _bytes_only, _no_attack),
    Attack(
        "statistics",
        "encrypted images",
        "symmetry",
        None,
        "images",
        _bytes_only,
        lambda s: statistics.statistics(s.encrypted),
    ),
    Attack(
        "sensitivity",
        "an oracle",
        "NPCR",
        None,
        "images",
        lambda s: _bytes_only(s) or "every image has a key of its own" * s.per_image,
        _sensitivity,
    ),
    Attack(
        "chosen plaintext",
        "an oracle",
        "share",
        1 / 256,
        "images",
        _one_transform,
        lambda s: plaintext.chosen_plaintext(s.scheme, s.oracle, s.original, seed=s.seed),
    ),
    Attack(
        "known plaintext",
        "pairs",
        "share",
        1 / 256,
        "pairs",
        _one_transform,
        lambda s: plaintext.known_plaintext(s.scheme, *s.pairs, s.original, s.encrypted),
    ),
    Attack(
        "ciphertext only",
        "encrypted images, photos",
        "share",
        1 / 256,
        "images",
        lambda s: ciphertext_only.why_not(s.scheme) or "every image has a key of its own" * s.per_image,
        lambda s: ciphertext_only.ciphertext_only(s.scheme, s.encrypted, s.pairs[0], s.original),
    ),
    Attack(
        "feature reconstruction",
        "encrypted images",
        "SSIM of outlines",
        None,
        "images",
        _bytes_only,
        lambda s: reconstruction.feature_reconstruction(s.encrypted, s.original),
    ),
    Attack(
        "minimum difference",
        "encrypted images, first pixels",
        "SSIM",
        None,
        "images",
        _bytes_only,
        lambda s: reconstruction.minimum_difference(s.encrypted, s.original),
    ),
    Attack(
        "block means",
        "encrypted images",
        "SSIM",
        None,
        "images",
        _bytes_only,
        lambda s: reconstruction.block_means(s.encrypted, s.original, s.scheme.side),
    ),
    Attack(
        "equal blocks",
        "encrypted images",
        "share",
        None,
        "images",
        lambda s: "",
        lambda s: reconstruction.equal_blocks(s.encrypted, s.original, s.scheme.side),
    ),
    Attack(
        "frequency analysis",
        "encrypted images",
        "SSIM",
        None,
        "images",
        _why_no_frequencies,
        lambda s: reconstruction.ffx_frequencies(s.encrypted, s.original, s.scheme.side),
    ),
    Attack(
        "np correlations",
        "encrypted images",
        "mask",
        0.5,
        "images",
        _why_no_correlations,
        _np_correlations,
    ),
    Attack(
        "jigsaw",
        "encrypted images",
        "neighbours",
        None,
        "images",
        lambda s: _bytes_only(s) or jigsaw.why_not(s.scheme),
        _jigsaw,
    ),
    Attack(
        "learned inverse",
        "photos, keys of its own",
        "SSIM",
        None,
        "photos",
        _why_not_learned,
        lambda s: learned.inverse_transform(
            s.scheme, s.pairs[0], s.encrypted, s.original, steps=learned.STEPS, seconds=s.seconds, seed=s.seed
        ),
    ),
)
