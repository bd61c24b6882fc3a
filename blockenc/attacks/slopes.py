"""Masks and neighbours out of logits alone: how a model's answers change with the value of each position.

One position of every block of a few encrypted images is given two values, and the answers are compared: their
difference is the position's *slope*. A model that was trained on encrypted images weighs a position by what
its values tell, and alike where pixels are neighbours in the plain image, so that

- what ffx enciphers shows: where a model looks values up, its answers jump from one encrypted value to the
  next, and where it cannot, it has learned to weigh those positions little;
- what np negates shows: its slopes point the other way than those of its neighbours;
- neighbours show: their slopes are alike, which is what a jigsaw of the shuffle starts from.

Neither plain images nor labels nor weights are needed. Source: ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from blockenc.attacks.base import Result, needs_scipy
from blockenc.attacks.seriation import VALUES, answers_of, order, scaled
from blockenc.attacks.weights import read_places
from blockenc.plan import Plan

LOW, HIGH = VALUES // 4, VALUES - 1 - VALUES // 4  # plain values between which slopes are taken


@dataclasses.dataclass(frozen=True)
class Slopes:
    """What slopes tell of each of the L positions of an encrypted block, p = (i*b + j)*C + c.

    enciphered: bool [L], by ffx. negated: bool [L], by np; the opposite of all of them is as likely.
    alike: float64 [L, L], the cosine between the slopes of two positions.
    """

    enciphered: np.ndarray
    negated: np.ndarray
    alike: np.ndarray


def read_slopes(
    logits: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    block_size: int,
    *,
    enciphered: int = 0,
    truth: Plan | None = None,
    batch: int = 256,
) -> Result:
    """The masks of ffx and np, and neighbours under shuffle, out of a model's answers.

    logits: encrypted images, uint8 [N, C, H, W], to logits [N, classes].
    images: encrypted images, uint8 [N, C, H, W]; some tens do. Values of theirs are replaced.
    enciphered: how many positions of a block ffx enciphers, which the scheme tells: half of them, or 0.
    truth: `Cipher.plan()` of one key for all blocks, for the scores only.
    batch: how many images the model is given at once.

    With positions that are enciphered, the first image is asked about with every value at every position, and
    the order of the values comes from `seriation`.

    Scores, with the truth: "neighbour" and "neighbour_guessing" as of `weights.read_places`; with an ffx step
    "ffx share", of the positions that are rightly taken to be enciphered or not; with an np step "np share",
    of those that are not taken to be enciphered and whose negative is right, and "np share, all", of all;
    both in the better of two directions. `recovered`: a `Slopes`. Raises ModuleNotFoundError without SciPy,
    and ValueError naming the argument.

    >>> import blockenc
    >>> scheme = blockenc.Scheme(2, ["np"], channels=1)
    >>> cipher = blockenc.Cipher(blockenc.Key(bytes(range(32))), scheme)
    >>> y = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    >>> found = read_slopes(lambda v: cipher.decrypt(v).float().mean((2, 3)), y, 2, truth=cipher.plan())
    >>> found.scores["np share"]
    1.0
    """
    needs_scipy("read_slopes")
    length = images.shape[1] * block_size**2
    if length < 2:
        raise ValueError("block_size: expected blocks of at least 2 values, which may be compared, got 1")
    if not 0 <= enciphered < length:
        raise ValueError(f"enciphered: expected 0 to {length - 1} positions of {length}, got {enciphered}")

    def answers(y: torch.Tensor, position: int, values: np.ndarray) -> np.ndarray:
        return answers_of(logits, y, block_size, position, values=values, batch=batch)

    plain = np.arange(VALUES)
    between = np.tile(plain[[LOW, HIGH]], (length, 1))
    slopes = np.stack([_difference(answers(images, p, between[p])) for p in range(length)])
    mask = np.zeros(length, bool)
    queries = 2 * length * len(images)
    if enciphered:
        every = [answers(images[:1], p, plain) for p in range(length)]
        queries += length * VALUES
        mask = _enciphered(np.stack(every), np.linalg.norm(slopes, axis=1), enciphered)
        ranks = order(np.concatenate([scaled(every[p]) for p in np.flatnonzero(mask)], axis=1))
        between[mask] = np.argsort(ranks)[[LOW, HIGH]]
        for p in np.flatnonzero(mask).tolist():
            slopes[p] = _difference(answers(images, p, between[p]))
        queries += 2 * enciphered * len(images)
    unit = slopes / np.linalg.norm(slopes, axis=1, keepdims=True).clip(np.finfo(float).tiny)
    alike = unit @ unit.T
    found = Slopes(mask, signs(alike), alike)
    scores = {} if truth is None else _scores(found, slopes, truth)
    used: dict[str, float] = {"images": len(images), "queries": queries}
    return Result("slopes", scores, used, found)


def signs(alike: np.ndarray) -> np.ndarray:
    """Which of L vectors point the other way than the first, bool [L], by way of those that are alike.

    alike: their cosines, [L, L]. Only vectors that are alike but for their direction tell whether one is
    negated, so that each is compared with one beside it in the tree of the strongest similarities.
    """
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    tree = minimum_spanning_tree(2 - abs(alike))
    sequence, before = breadth_first_order(tree, 0, directed=False)
    found = np.zeros(len(alike), bool)
    for p in sequence[1:]:
        found[p] = found[before[p]] ^ (alike[p, before[p]] < 0)
    return found


def _difference(answers: np.ndarray) -> np.ndarray:
    difference: np.ndarray = answers[1] - answers[0]
    return difference


def _enciphered(answers: np.ndarray, strengths: np.ndarray, count: int) -> np.ndarray:
    """The positions whose answers jump most, or whose slopes are weakest: whichever sets them apart more.

    answers: [L, 256, n], to each encrypted value. strengths: [L], of the slopes.
    """
    about = answers - answers.mean(axis=1, keepdims=True)
    jumps = (np.diff(answers, axis=1) ** 2).sum((1, 2)) / (about**2).sum((1, 2)).clip(np.finfo(float).tiny)
    signals = [jumps, 1 / strengths.clip(np.finfo(float).tiny)]

    def gap(signal: np.ndarray) -> float:
        low, high = np.sort(signal)[::-1][[count, count - 1]]
        return float(high / low) if low > 0 else np.inf

    found = np.zeros(len(answers), bool)
    found[np.argsort(max(signals, key=gap))[-count:]] = True
    return found


def _scores(found: Slopes, slopes: np.ndarray, truth: Plan) -> dict[str, float]:
    selected = truth.table_of[0] > 0
    plain = ~found.enciphered
    negated = truth.flips[0] % 2 == 1
    scores = {}
    if found.enciphered.any():
        scores["ffx share"] = float((found.enciphered == selected).mean())
    if negated.any():
        scores["np share"] = _share(signs(found.alike[plain][:, plain]), negated[plain])
        scores["np share, all"] = _share(found.negated, negated)
    return {**read_places(slopes.T[:, :, None], truth), **scores}


def _share(found: np.ndarray, right: np.ndarray) -> float:
    """Of the entries that are right, in the better of two directions."""
    share = float((found == right).mean())
    return max(share, 1 - share)
