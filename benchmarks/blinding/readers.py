"""Who reads a key out of a protected stem: by its weights, by what it does, by the logits of the whole model.

All of them know the scheme, the architecture and natural images, and have no key and no pair of images.

weights: the readers of blockenc.attacks.weights, as they are, on the first layer's own numbers.
behaviour: evaluates all layers up to the first activation on blocks of its choice. Since the stem is
    additive, that gives F, whatever weights compute it. It knows more, too: half of all positions are
    substituted, by one table, so that it looks at all of these together; natural blocks vary in few
    directions, so that loud other ones can be taken away; and how a plain stem of this recipe starts.
logits: evaluates the whole model on images of its choice, and sees nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from blockenc.attacks.weights import NEAR, read_places, read_values
from blockenc.nn import BlockEmbedding
from blockenc.plan import Plan

LOUD = (0, 8, 16, 24, 32, 40)  # how many of the loudest directions a reader takes away; it keeps the best
DRAWS = 20  # random assignments, beside which an assignment is judged

Evaluate = Callable[[torch.Tensor], torch.Tensor]


def by_weights(stem: BlockEmbedding, plan: Plan, unfold: int) -> dict[str, float]:
    """The readers of blockenc.attacks.weights on a table and weights; a full table is both."""
    table = stem.table.detach().float().numpy()
    features = table.transpose(2, 0, 1) if stem.weight is None else stem.weight.detach().float().numpy()
    if stem.weight is None:
        features = features - features.mean(2, keepdims=True)
    return {**read_values(table, plan), **read_places(features, plan, unfold)}


@torch.no_grad()
def responses(function: Evaluate, blocks: torch.Tensor) -> np.ndarray:
    """What a function makes of blocks uint8 [K, C, M, M] with one value changed to each of 256: float64
    [L, 256, K * outputs]."""
    C, M = blocks.shape[1:3]
    found = []
    for p in range(M * M * C):
        changed = blocks.repeat(256, 1, 1, 1, 1)
        changed[:, :, p % C, p // C // M, p // C % M] = torch.arange(256, dtype=torch.uint8)[:, None]
        found.append(function(changed.flatten(0, 1)).double().reshape(256, -1).numpy())
    return np.stack(found)


def by_behaviour(
    F: np.ndarray, plan: Plan, unfold: int, start: np.ndarray, natural: np.ndarray
) -> dict[str, float]:
    """F: [L, values, D], measured. start: [L, D], slopes of the stem that plain training of this recipe
    starts with. natural: [L, L], the covariance of natural blocks."""
    values, ranks, substituted = by_order(F, plan)
    ranks = np.where(substituted[:, None], ranks, np.arange(256))
    ranks = (ranks - 127.5) / np.sqrt((256**2 - 1) / 12)
    slopes = np.einsum("pv,pvd->pd", ranks, F - F.mean(1, keepdims=True)) / 256
    places = _assigned(slopes, start, natural, unfold)
    truth = plan.source[0] // plan.channels
    own = (slopes / np.linalg.norm(slopes, axis=1, keepdims=True).clip(1e-12)).T[..., None]
    return {
        **values,
        "part_of_the_block": float((places // plan.channels == truth).mean()),
        "part_of_the_block_guessing": 1 / plan.block_size**2,
        "position": float((places == plan.source[0]).mean()),
        "position_guessing": 1 / plan.length,
        **read_places(own, plan, 1),
    }


def by_order(F: np.ndarray, plan: Plan) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """What responses tell of the substitution: scores; the rank that each value is taken for; and which
    positions are taken to be substituted: the half whose response is the least smooth."""
    centred = F - F.mean(1, keepdims=True)
    energy = (centred**2).mean((1, 2)).clip(1e-30)
    rough = (np.diff(F, axis=1) ** 2).mean((1, 2)) / energy
    substituted = np.zeros(len(F), bool)
    substituted[rough.argsort()[len(F) // 2 :]] = True
    # Each position counts alike. A negated one has the order reversed, which changes no product of slopes.
    features = centred / np.sqrt(energy)[:, None, None]
    joined = features[substituted].transpose(1, 0, 2).reshape(256, -1)
    gram = joined @ joined.T
    ranks = min(_orders(gram), key=lambda ranks: _length(gram, ranks))
    becomes, plain = plan.substitutions(), np.arange(256)
    truly = np.array([not (np.array_equal(b, plain) or np.array_equal(b, plain[::-1])) for b in becomes])
    near = [
        max((abs(r - plain) <= NEAR).mean() for r in (ranks[becomes[p]], 255 - ranks[becomes[p]]))
        for p in np.flatnonzero(truly)
    ]
    guess = np.mean([abs(v - plain) <= NEAR for v in plain])
    scores = {
        "rows_within_8": float(np.mean(near)),
        "rows_within_8_guessing": float(guess),
        "substituted": float((substituted == truly).mean()),
        "substituted_guessing": 0.5,
    }
    return scores, ranks, substituted


def _orders(gram: np.ndarray) -> list[np.ndarray]:
    """Ranks of the values by each main direction, and by how a walk between similar ones spreads (seriation
    by the Fiedler vector; Atkins, Boman and Hendrickson 1998)."""
    vectors = np.linalg.eigh(gram)[1][:, ::-1]
    squares = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    near = np.exp(-squares / np.sort(squares, axis=1)[:, 8].mean().clip(1e-30))
    root = np.sqrt(near.sum(1))
    walk = np.linalg.eigh(near / root[:, None] / root)[1][:, -2] / root
    return [direction.argsort().argsort() for direction in (*vectors.T[:4], walk)]


def _length(gram: np.ndarray, ranks: np.ndarray) -> float:
    """How far it is from value to value in an order."""
    path = ranks.argsort()
    a, b = path[:-1], path[1:]
    return float(np.sqrt((gram[a, a] + gram[b, b] - 2 * gram[a, b]).clip(0)).sum())


def _assigned(slopes: np.ndarray, start: np.ndarray, natural: np.ndarray, unfold: int) -> np.ndarray:
    """The plain position that each encrypted one is taken for: the assignment of the greatest likeness, of
    directions of slopes or of the energy in each token, that stands out most from random ones."""
    axes = np.linalg.svd(slopes, full_matrices=False)[0]
    natural_axes = np.linalg.eigh(natural)[1][:, ::-1]
    g = np.random.default_rng(0)
    found = []
    for loud in LOUD:
        kept = slopes - axes[:, :loud] @ (axes[:, :loud].T @ slopes)
        usual = natural_axes[:, : len(start) - loud]
        expected = usual @ (usual.T @ start)
        for of in (np.abs, lambda x: (x.reshape(len(x), -1, unfold**2) ** 2).sum(1)):
            if of is np.abs:
                likeness = abs(_unit(kept) @ _unit(expected).T)
            else:
                likeness = np.sqrt(_unit(of(kept), 1)) @ np.sqrt(_unit(of(expected), 1)).T
            rows, columns = linear_sum_assignment(-likeness)
            random = [likeness[rows, g.permutation(columns)].sum() for _ in range(DRAWS)]
            stands_out = (likeness[rows, columns].sum() - np.mean(random)) / np.std(random).clip(1e-12)
            found.append((stands_out, columns))
    return max(found, key=lambda pair: pair[0])[1]


def _unit(x: np.ndarray, order: int = 2) -> np.ndarray:
    unit: np.ndarray = x / np.linalg.norm(x, order, axis=1, keepdims=True).clip(1e-12)
    return unit


@torch.no_grad()
def by_logits(model: Evaluate, plan: Plan, images: int, g: torch.Generator) -> dict[str, float]:
    """A reader of logits, on `images` images of 2 x 2 equal blocks of noise, of which it changes one or two
    values: order from how the logits answer to values; neighbours from which two values answer together."""
    C, M, L = plan.channels, plan.block_size, plan.length
    blocks = torch.randint(0, 256, (images, C, M, M), dtype=torch.uint8, generator=g)

    def function(blocks: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(some.repeat(1, 1, 2, 2)) for some in blocks.split(4096)])

    scores, _, _ = by_order(responses(function, blocks), plan)

    def changed(*positions: int) -> torch.Tensor:
        new = blocks.clone()
        for p in positions:
            new[:, p % C, p // C // M, p // C % M] ^= 0x80
        return new

    none, ones = function(blocks), [function(changed(p)) for p in range(L)]
    together = np.full((L, L), -1.0)
    for p in range(L):
        for q in range(p):
            both = function(changed(p, q)) - ones[p] - ones[q] + none
            together[p, q] = together[q, p] = float(both.square().mean())
    row, column = plan.source[0] // C // M, plan.source[0] // C % M
    beside = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 1
    np.fill_diagonal(beside, False)
    strength = np.sqrt(np.where(together < 0, 0, together).sum(1)).clip(1e-30)
    return {
        **scores,
        "neighbour": float(beside[np.arange(L), (together / strength / strength[:, None]).argmax(1)].mean()),
        "neighbour_guessing": float(beside.sum() / (L * (L - 1))),
    }
