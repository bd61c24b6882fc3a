"""Keys out of the weights of models: of an embedding's table and columns, and beside public weights.

The attacker has the weights of the first layer and knows the scheme, and has no key and no image.
"""

from __future__ import annotations

import numpy as np
import torch

from blockenc.attacks.base import Result, needs_scipy
from blockenc.cipher import Cipher
from blockenc.keys import ExplicitKey
from blockenc.plan import Plan
from blockenc.scheme import Scheme
from blockenc.steps import Np, Shuffle

NEAR = 8  # of 255: an image restored that well is seen


def read_values(table: np.ndarray, truth: Plan) -> dict[str, float]:
    """What an embedding's table tells of the value that each row stands for.

    For every position, the rows are put in order along their main direction, and each row's rank is taken for
    its plain value, up to reversal, which a negative makes anyway.

    table: [L, values, rank], of a `blockenc.nn.BlockEmbedding`. truth: `Cipher.plan()`, for the scores.

    Returns "rows_within_8", the share of rows within 8 of 255 of the truth, what guessing gives, and
    "rank_correlation", the mean of all positions. Source: ours.
    """
    becomes = truth.substitutions()
    near, correlations = [], []
    for p in range(len(becomes)):
        rows = table[p, becomes[p]].astype(np.float64)  # row n stands for value n; not used
        main = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        ranks = (main[0][:, 0] * main[1][0]).argsort().argsort()
        values = np.arange(len(rows))
        near.append(max((abs(r - values) <= NEAR).mean() for r in (ranks, ranks[::-1])))
        correlations.append(abs(np.corrcoef(ranks, values)[0, 1]))
    guess = np.mean([abs(i - values) <= NEAR for i in values])
    return {
        "rows_within_8": float(np.mean(near)),
        "rows_within_8_guessing": float(guess),
        "rank_correlation": float(np.mean(correlations)),
    }


def read_places(features: np.ndarray, truth: Plan, tokens: int = 1) -> dict[str, float]:
    """What the columns of a stem tell of the places of its positions in the plain block.

    Where the stem has several tokens a block, every position is taken to come from the part of the plain
    block whose token its weights go to. Filters are smooth, as a jigsaw's pieces are: each position's most
    similar other one is taken for a neighbour.

    features: [D, L, n], the weights of each position. tokens: along the sides of a block. truth:
    `Cipher.plan()`, for the scores.

    Returns "part_of_the_block", the share taken rightly, where there are tokens; "neighbour", how often the
    most similar position is the same pixel or one beside it; and what guessing gives. Source: ours.
    """
    M, C, length = truth.block_size, truth.channels, truth.length
    row, column = truth.source[0] // C // M, truth.source[0] // C % M
    found: dict[str, float] = {}
    if tokens > 1:
        energy = (features.reshape(-1, tokens * tokens, length, features.shape[-1]) ** 2).sum((0, 3))
        part = M // tokens
        places = (row // part) * tokens + column // part
        found["part_of_the_block"] = float((energy.argmax(0) == places).mean())
        found["part_of_the_block_guessing"] = 1 / tokens**2
    vectors = features.transpose(1, 0, 2).reshape(length, -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    similarity = abs(vectors @ vectors.T)
    np.fill_diagonal(similarity, -1)
    beside = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 1
    np.fill_diagonal(beside, False)
    found["neighbour"] = float(beside[np.arange(length), similarity.argmax(1)].mean())
    found["neighbour_guessing"] = float(beside.sum() / (length * (length - 1)))
    return found


def match_public(folded: torch.Tensor, public: torch.Tensor, truth: Plan | None = None) -> Result:
    """The key of a protected patch embedding, beside the public weights that it was made of.

    `protect` gives a pre-trained patch embedding other columns, in a secret order, and negative where np
    negates. Whoever has the public model finds each column again, also after fine-tuning.

    folded, public: the weights of both convolutions of kernel = stride, [D, C, M, M]. truth: `Cipher.plan()`,
    of shuffle and np, for the score only.

    Scores, with the truth: "key share", of the positions whose place and sign are right (chance is
    1/(2CM^2)). `recovered`: a `Cipher` that encrypts as the key does. Raises ModuleNotFoundError without
    SciPy, and ValueError for other shapes. Source: ours; that a key in a known model's first layer is no
    secret is what makes published weights a poor place for one.

    >>> import blockenc
    >>> public = torch.nn.Conv2d(3, 64, 4, stride=4)
    >>> cipher = blockenc.Cipher(blockenc.Key(bytes(range(32))), blockenc.Scheme(4, ["shuffle", "np"]))
    >>> locked = blockenc.protect(torch.nn.Sequential(public), cipher)
    >>> match_public(locked[0].weight, public.weight, cipher.plan()).scores
    {'key share': 1.0}
    """
    needs_scipy("match_public")
    from scipy.optimize import linear_sum_assignment

    if folded.shape != public.shape or folded.ndim != 4 or folded.shape[2] != folded.shape[3]:
        wanted = "two of one shape [D, C, M, M]"
        raise ValueError(
            f"folded, public: expected {wanted}, got {list(folded.shape)} and {list(public.shape)}"
        )
    ours, theirs = (_columns(weight) for weight in (folded, public))
    alike = ours @ theirs.T
    source = linear_sum_assignment(-abs(alike))[1]
    negated = alike[np.arange(len(source)), source] < 0
    c, m = folded.shape[1:3]
    key = ExplicitKey([source[None], negated[None]])
    recovered = Cipher(key, Scheme(m, (Shuffle(), Np()), channels=c))
    scores = {}
    if truth is not None:
        right = (truth.source[0] == source) & (truth.flips[0] % 2 == negated)
        scores = {"key share": float(right.mean())}
    return Result("public weights", scores, {"models": 1.0}, recovered)


def _columns(weight: torch.Tensor) -> np.ndarray:
    """The weights of each position of a block, of length 1: float64 [M*M*C, D]."""
    columns = weight.detach().double().cpu().permute(2, 3, 1, 0).flatten(0, 2).numpy()
    unit: np.ndarray = columns / np.linalg.norm(columns, axis=1, keepdims=True).clip(1e-12)
    return unit
