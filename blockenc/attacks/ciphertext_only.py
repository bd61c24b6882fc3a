"""The whole transform out of encrypted images alone, where every block of every image is treated alike.

The attacker knows the scheme, has encrypted images, and some photos of its own, of anything, unencrypted:
neither pairs nor an oracle, no key, no model. Two properties of photos are enough.

- The values of a block are bright or dark together. So the values that a position takes, whatever they stand
  for, can be put on a scale: by how bright the rest of the block is where they occur. On that scale a table
  shows as the order of its plain values, and a negative as a scale that runs the other way.
- How strongly two places of a block go together, with each other and across the edges of blocks, depends on
  where they are. With the values in the clear, the places are those which make these correlations look like
  the ones of any other photos.

Scales by mutual averaging are known as correspondence analysis or alternating conditional expectations
(L. Breiman and J. Friedman, Estimating optimal transformations for multiple regression and correlation,
Journal of the American Statistical Association 80, 1985); places out of correlations as learning the
topology of an image (N. Le Roux and others, Learning the 2-D topology of images, NIPS 2007). That the two
together recover these keys is ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from blockenc.attacks.base import Result, why_no_scipy
from blockenc.attacks.measures import scores
from blockenc.attacks.plaintext import refusal, unit_orbits
from blockenc.blocks import to_vectors
from blockenc.cipher import Cipher
from blockenc.keys import ExplicitKey
from blockenc.scheme import Scheme
from blockenc.steps import Ffx, Np, Shuffle

VALUES = 256
MOST_BLOCKS = 400_000  # more teach nothing, and take longer
ROUNDS = 100
SETTLED = 1e-7  # by how much less than 1 the scales of two rounds agree in the end
REFINEMENTS = 3
RIDGE = 1e-3
FORBIDDEN = 1e6


def why_not(scheme: Scheme) -> str:
    """Why a scheme is not open to this attack, "" where it is.

    >>> why_not(Scheme(4, ["shuffle", "np", "ffx"]))
    ''
    """
    if reason := why_no_scipy():
        return reason
    if scheme.depends_on_size:
        return "not the same for all blocks"
    if scheme.is_decimal or any(getattr(step, "cells", "byte") == "nibble" for step in scheme.bound_steps):
        return "cells that are no bytes"
    if scheme.kinds.count("ffx") > 1:
        return "more than one table"
    return refusal(scheme)


def ciphertext_only(
    scheme: Scheme, encrypted: torch.Tensor, photos: torch.Tensor, original: torch.Tensor | None = None
) -> Result:
    """Recovers a transform that does what the key does, to images of any size.

    scheme: public; `why_not` says which are open to this. encrypted: uint8 [N, C, H, W], under one key.
    photos: uint8 [P, C, h, w], any others, about as sharp. original: what the encrypted images were, for the
    scores only.

    Scores, with the originals: "share", of the values that decrypt to what they were (two random values are
    equal with 1/256); "SSIM" and "PSNR". Used: "images", "photos", "seconds". Recovered: a `Cipher`, whose
    scheme may have other steps than the victim's and does the same.

    Raises ValueError for schemes that are not open to it, and sizes that do not fit.

    >>> import blockenc
    >>> from blockenc.attacks.ciphertext_only import ciphertext_only
    >>> x = torch.arange(256).clamp(64, 190).to(torch.uint8).repeat(2, 1, 256, 1)
    >>> scheme = blockenc.Scheme(2, ["np"], channels=1)
    >>> y = blockenc.encrypt(x, blockenc.Key(bytes(range(32))), scheme=scheme)
    >>> ciphertext_only(scheme, y, x).recovered.scheme.block_size
    2
    """
    reason = why_not(scheme)
    if reason:
        raise ValueError(f"scheme: not open to this attack, {reason}")
    for name, images in (("encrypted", encrypted), ("photos", photos)):
        _check(name, images, scheme)
    start = time.perf_counter()
    recovered = _recovered(scheme, encrypted, photos)
    used = {"images": float(len(encrypted)), "photos": float(len(photos))}
    used["seconds"] = time.perf_counter() - start
    score: dict[str, float] = {}
    if original is not None:
        found = recovered.decrypt(encrypted)
        score = {"share": float((found == original).double().mean()), **scores(found, original)}
    return Result("ciphertext only", score, used, recovered)


def _check(name: str, images: torch.Tensor, scheme: Scheme) -> None:
    c, side = scheme.channels, scheme.side
    fits = images.ndim == 4 and images.shape[1] == c and not any(size % side for size in images.shape[2:])
    if images.dtype != torch.uint8 or not fits or not len(images):
        wanted = f"uint8 [N, {c}, H, W], N at least 1, H and W multiples of {side}"
        raise ValueError(f"{name}: expected {wanted}, got {images.dtype} {list(images.shape)}")


class _Values(NamedTuple):
    """What is known of the values of each position of a block.

    negated_before, enciphered, negated_after: booleans [L]. table: integers [256], of plain values.
    """

    negated_before: np.ndarray
    enciphered: np.ndarray
    negated_after: np.ndarray
    table: np.ndarray

    def plain(self) -> np.ndarray:
        """uint8 [L, 256], what each encrypted value stands for."""
        values = np.arange(VALUES)
        found = np.where(self.negated_after[:, None], values[::-1], values)
        found = np.where(self.enciphered[:, None], np.argsort(self.table)[found], found)
        return np.where(self.negated_before[:, None], VALUES - 1 - found, found).astype(np.uint8)


def _recovered(scheme: Scheme, encrypted: torch.Tensor, photos: torch.Tensor) -> Cipher:
    side = scheme.side
    vectors, own = (to_vectors(images, side).numpy() for images in (encrypted, photos))
    length = vectors.shape[-1]
    cells = np.ascontiguousarray(vectors.reshape(-1, length)[:MOST_BLOCKS].T)  # [L, R]
    if "ffx" in scheme.kinds:
        values = _with_table(_scales(cells, _as_seen), cells)
    else:
        values = _Values(_falls(_scales(cells, _straight)), *_no_table(length))
    values = _right_way_up(values, cells, own)
    places = _places(
        _Correlations.of(np.take_along_axis(values.plain(), cells, 1), encrypted.shape[-2:], side),
        _Correlations.of(own.reshape(-1, length).T, photos.shape[-2:], side),
        unit_orbits(scheme),
    )
    secrets = [places[None], values.negated_before[None]]
    steps: list[Shuffle | Np | Ffx] = [Shuffle(), Np()]
    if values.enciphered.any():
        secrets += [(values.enciphered[None], values.table), values.negated_after[None]]  # type: ignore[list-item]
        steps += [Ffx(), Np()]
    return Cipher(ExplicitKey(secrets), Scheme(side, tuple(steps), channels=scheme.channels))


def _no_table(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    none = np.zeros(length, bool)
    return none, none, np.arange(VALUES)


# --- values -------------------------------------------------------------------------------------


def _as_seen(scales: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    return scales


def _straight(scales: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Scales as straight lines: all that a scheme without tables leaves open is which way they run."""
    line = _centred(np.broadcast_to(np.arange(VALUES, dtype=float), scales.shape), frequency)
    straight: np.ndarray = line * (scales * line * frequency).sum(axis=1, keepdims=True)
    return straight


def _centred(scales: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    centred: np.ndarray = scales - (scales * frequency).sum(axis=1, keepdims=True)
    return centred


def _falls(scales: np.ndarray) -> np.ndarray:
    """Which scales run down rather than up."""
    return np.array([_correlation(scale, np.arange(VALUES)) < 0 for scale in scales])


def _scales(cells: np.ndarray, form: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """For each position and value how bright, in some unit, the rest of the block is on average, on the
    scales of the others: float64 [L, 256], up to one sign for all. cells: uint8 [L, R]."""
    often = np.stack([np.bincount(row, minlength=VALUES) for row in cells])
    frequency = often / cells.shape[1]

    def scaled(new: np.ndarray) -> np.ndarray:
        new = form(_centred(new, frequency), frequency)
        return np.asarray(new / (np.sqrt((new**2 * frequency).sum()) + np.finfo(float).tiny))

    scales = scaled(np.random.default_rng(0).normal(size=often.shape))
    for _ in range(ROUNDS):
        total = np.zeros(cells.shape[1])
        for scale, row in zip(scales, cells):
            total += scale[row]
        sums = [np.bincount(row, total - scale[row], VALUES) for scale, row in zip(scales, cells)]
        new = scaled(np.stack(sums) / np.maximum(often, 1))
        settled = 1 - abs((new * scales * frequency).sum()) < SETTLED
        scales = new
        if settled:
            break
    return scales


def _with_table(scales: np.ndarray, cells: np.ndarray) -> _Values:
    """Which positions are enciphered, which are negated, and the table.

    An enciphered position's scale is in no order, and is that of every other one, but that it may run the
    other way (negated before the table) and from 255 down (negated after).
    """
    length = len(scales)
    straight = np.array([abs(_correlation(scale, np.arange(VALUES))) for scale in scales])
    enciphered = np.zeros(length, bool)
    enciphered[np.argsort(straight)[: length // 2]] = True
    before = _falls(scales)
    after = np.zeros(length, bool)
    hidden = np.flatnonzero(enciphered)
    common = scales[hidden[np.argmax(scales[hidden].var(axis=1))]]
    for _ in range(REFINEMENTS):
        total = np.zeros(VALUES)
        for p in hidden:
            fits = [_correlation(scale, common) for scale in (scales[p], scales[p][::-1])]
            after[p] = abs(fits[1]) > abs(fits[0])
            before[p] = fits[int(after[p])] < 0
            total += (-1 if before[p] else 1) * scales[p][:: -1 if after[p] else 1]
        common = total
    values = _Values(before, enciphered, after, np.argsort(common))
    for _ in range(REFINEMENTS):
        values = values._replace(table=_refined(values, cells))
    return values


def _refined(values: _Values, cells: np.ndarray) -> np.ndarray:
    """The table, in the order of what the positions in the clear foretell of each enciphered value."""
    plain = np.take_along_axis(values.plain(), cells, 1).astype(np.float32)
    plain -= plain.mean(axis=1, keepdims=True)
    together = (plain @ plain.T).astype(float) / plain.shape[1]
    clear, hidden = ~values.enciphered, np.flatnonzero(values.enciphered)
    among = together[np.ix_(clear, clear)]
    among[np.diag_indices_from(among)] += RIDGE * np.trace(among) / len(among)
    weights = np.linalg.solve(among, together[np.ix_(clear, values.enciphered)])
    foretold = weights.T.astype(np.float32) @ plain[clear]
    total, often = np.zeros(VALUES), np.zeros(VALUES)
    for p, row in zip(hidden, foretold):
        seen = VALUES - 1 - cells[p] if values.negated_after[p] else cells[p]
        total += np.bincount(seen, -row if values.negated_before[p] else row, VALUES)
        often += np.bincount(seen, minlength=VALUES)
    rank = np.argsort(np.argsort(total / np.maximum(often, 1)))
    return np.argsort(np.where(often > 0, rank, np.argsort(values.table)))


def _right_way_up(values: _Values, cells: np.ndarray, own: np.ndarray) -> _Values:
    """Of all values and all their negatives those whose histogram is nearer to that of the photos."""
    counts = np.bincount(np.take_along_axis(values.plain(), cells, 1).ravel(), minlength=VALUES)
    wanted = np.cumsum(np.bincount(own.ravel(), minlength=VALUES) / own.size)
    far = [np.abs(np.cumsum(found / cells.size) - wanted).sum() for found in (counts, counts[::-1])]
    if far[0] <= far[1]:
        return values
    return values._replace(negated_before=~values.negated_before)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.sqrt((a @ a) * (b @ b)) + np.finfo(float).tiny))


# --- places -------------------------------------------------------------------------------------


class _Correlations(NamedTuple):
    """How the positions of a block go together: in the block itself, and with the blocks to the right and
    below, float64 [L, L] each; zeros where images are one block wide or high."""

    within: np.ndarray
    right: np.ndarray
    below: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray, size: Sequence[int], side: int) -> _Correlations:
        """cells: uint8 [L, R], the blocks of images one after the other."""
        rows, columns = size[0] // side, size[1] // side
        whole = cells[:, : cells.shape[1] // (rows * columns) * rows * columns]
        grid = whole.T.reshape(-1, rows, columns, len(cells)).astype(np.float32)
        grid = (grid - grid.mean(axis=(0, 1, 2))) / grid.std()

        def together(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a, b = (part.reshape(-1, len(cells)) for part in (a, b))
            return np.asarray((a.T @ b).astype(float) / max(len(a), 1))

        return cls(
            together(grid, grid),
            together(grid[:, :, :-1], grid[:, :, 1:]),
            together(grid[:, :-1], grid[:, 1:]),
        )

    def marks(self) -> np.ndarray:
        """What tells positions apart in whichever order they stand: float64 [L, n]."""
        beside = [part.sum(axis=axis) for part in (self.right, self.below) for axis in (0, 1)]
        return np.column_stack([*beside, np.sort(self.within, axis=1)])


def _places(found: _Correlations, wanted: _Correlations, orbits: np.ndarray) -> np.ndarray:
    """The position of a plain block that each position of an encrypted one shows: integers [L].

    orbits: integers [L]; positions of one may change places.
    """
    from scipy.optimize import linear_sum_assignment

    forbidden = np.where(orbits[:, None] == orbits, 0.0, FORBIDDEN)

    def assigned(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Rows of a to rows of b, the sum of squared distances the least."""
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
        places: np.ndarray = linear_sum_assignment(squares + forbidden)[1]
        return places

    places = assigned(found.marks(), wanted.marks())
    for _ in range(ROUNDS):
        # Every position by its correlations with all others, where these are believed to be.
        rows = [np.hstack([part, part.T]) for part in found]
        others = [np.hstack([part[:, places], part[places].T]) for part in wanted]
        better = assigned(np.hstack(rows), np.hstack(others))
        if (better == places).all():
            break
        places = better
    return places
