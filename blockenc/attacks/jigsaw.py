"""Blocks that moved as a whole, put back by how their edges fit, as the pieces of a jigsaw puzzle.

The attacker sees one encrypted image and knows the scheme. Pieces may be turned, mirrored, negated and have
their colours in another order, each on its own.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from blockenc.attacks.base import Result
from blockenc.attacks.measures import scores
from blockenc.scheme import Scheme
from blockenc.steps import Colour, Np, Rotate, Scramble

MIDDLE = 127.5
SHORTLIST = 20  # of each side of each piece, the nearest by the sum of squares
CANDIDATES = 6  # of those, the nearest by the sum of differences
ROWS_AT_ONCE = 256  # of distances
HOLE = 128  # the value of places without a piece

# What a pose does to the vector (down, right): pose d is d % 4 quarters counterclockwise, then mirrored.
_TURN, _MIRROR = np.array([[0, -1], [1, 0]]), np.array([[1, 0], [0, -1]])
_POSES = [np.linalg.matrix_power(_TURN, d % 4) for d in range(8)]
POSES = [matrix if d < 4 else _MIRROR @ matrix for d, matrix in enumerate(_POSES)]
POSE_OF = {matrix.tobytes(): d for d, matrix in enumerate(POSES)}


class Look(NamedTuple):
    """How a piece is looked at: its pose as a matrix, whether negated, and the order of its channels."""

    pose: np.ndarray
    negated: bool
    order: tuple[int, ...]

    def of(self, piece: np.ndarray) -> np.ndarray:
        """The piece [b, b, C] so."""
        d = POSE_OF[self.pose.astype(int).tobytes()]
        turned = np.rot90(piece, d % 4)
        turned = turned[:, ::-1] if d >= 4 else turned
        seen = turned[..., list(self.order)]
        return 2 * MIDDLE - seen if self.negated else seen

    def then(self, other: Look) -> Look:
        """First this, then the other."""
        order = tuple(self.order[c] for c in other.order)
        return Look(other.pose @ self.pose, self.negated != other.negated, order)

    def back(self) -> Look:
        order = tuple(int(c) for c in np.argsort(self.order))
        return Look(self.pose.T, self.negated, order)

    def key(self) -> tuple[bytes, bool, tuple[int, ...]]:
        return self.pose.astype(int).tobytes(), self.negated, self.order


def why_not(scheme: Scheme) -> str:
    """Why the scheme is no puzzle, "" where it is: blocks of one size that move, and stay whole.

    >>> from blockenc.schemes import ETC, SHF
    >>> why_not(ETC()), why_not(SHF())
    ('', 'blocks do not stay whole')
    """
    steps = [step for step in scheme.bound_steps if not step.is_idle]
    if any(step.within_blocks for step in steps):
        return "blocks do not stay whole"
    return "" if any(isinstance(step, Scramble) for step in steps) else "no block moves"


def jigsaw(scheme: Scheme, encrypted: torch.Tensor, original: torch.Tensor) -> Result:
    """Puts the blocks of each image back where they came from.

    Two sides fit as well as each continues the other: by how far a line through the two outermost values of
    a piece misses the first value of the other. The fits of which the second best is the farthest behind join
    first; groups of pieces are turned, negated and recoloured as a whole to join, and do not if they overlap
    or leave the frame.

    scheme: one of which `why_not` says nothing. encrypted, original: uint8 [N, C, H, W]; the original is for
    the scores, and to tell which of the looks of the whole picture (turned, negated, recoloured) is the right
    one, for which people have eyes.

    Scores: "neighbours", the share of neighbours of the original that are neighbours again, and "places", of
    the blocks in the largest group that is right in itself; SSIM and PSNR. Recovered: the images, with what
    is not in that group's frame left grey.

    Source: A. Gallagher, Jigsaw puzzles with pieces of unknown orientation, CVPR 2012 (the order of joining);
    D. Pomeranz and others, A fully automated greedy square jigsaw puzzle solver, CVPR 2011 (prediction); on
    EtC arXiv 2202.00806.
    """
    reason = why_not(scheme)
    if reason:
        raise ValueError(f"scheme: expected blocks that move as a whole, got one in which {reason}")
    start = time.perf_counter()
    found = torch.full_like(encrypted, HOLE)
    totals = np.zeros(2)
    for n, (image, plain) in enumerate(zip(encrypted, original)):
        puzzle = _Puzzle(scheme, image)
        puzzle.join()
        picture, *shares = puzzle.compared(_blocks(plain, puzzle.size))
        found[n] = torch.from_numpy(picture).permute(2, 0, 1)
        totals += shares
    neighbours, places = totals / len(encrypted)
    score = {"neighbours": float(neighbours), "places": float(places), **scores(found, original)}
    used = {"images": float(len(encrypted)), "seconds": time.perf_counter() - start}
    return Result("jigsaw", score, used, found)


def _blocks(image: torch.Tensor, b: int) -> np.ndarray:
    """float32 [rows, columns, b, b, C]"""
    c, h, w = image.shape
    cut = image.permute(1, 2, 0).reshape(h // b, b, w // b, b, c).permute(0, 2, 1, 3, 4)
    return cut.contiguous().numpy().astype(np.float32)


class _Puzzle:
    def __init__(self, scheme: Scheme, image: torch.Tensor) -> None:
        steps = [step for step in scheme.bound_steps if not step.is_idle]
        self.size = min(step.block_size or 0 for step in steps)
        blocks = _blocks(image, self.size)
        self.rows, self.columns = blocks.shape[:2]
        self.pieces = blocks.reshape(-1, *blocks.shape[2:])
        self.turns = any(isinstance(step, Rotate) for step in steps)
        channels = range(self.pieces.shape[-1])
        coloured = any(isinstance(step, Colour) for step in steps)
        self.orders = list(itertools.permutations(channels)) if coloured else [tuple(channels)]
        self.negations = [False, True] if any(isinstance(step, Np) for step in steps) else [False]
        as_it_is = Look(POSES[0], False, tuple(channels))
        self.group = list(range(len(self.pieces)))
        self.members = {n: [n] for n in self.group}
        self.place = [np.zeros(2, int) for _ in self.pieces]
        self.look = [as_it_is for _ in self.pieces]

    # --- what fits ------------------------------------------------------------------------------

    def join(self) -> None:
        """Joins groups by the fits there are, the surest first."""
        for a, turn, b, look in self._fits():
            if self.group[a] == self.group[b]:
                continue
            # As the fit was found, a is turned by `turn` and b is to its right.
            frame = Look(POSES[turn].T, False, self.orders[0]).then(self.look[a])
            self._merge(a, b, look.then(frame), self.place[a] + frame.pose @ (0, 1))

    def _merge(self, a: int, b: int, look: Look, place: np.ndarray) -> None:
        """Moves the group of b so that b has this look, at this place of a's group, and joins them."""
        change = self.look[b].back().then(look)
        own = self.members[self.group[b]]
        moved = {n: change.pose @ (self.place[n] - self.place[b]) + place for n in own}
        taken = {tuple(self.place[n]) for n in self.members[self.group[a]]}
        joined = [*taken, *map(tuple, moved.values())]
        if len(set(joined)) < len(joined) or not self._fits_frame(np.array(joined)):
            return
        for n, where in moved.items():
            self.place[n] = where
            self.look[n] = self.look[n].then(change)
        old, new = self.group[b], self.group[a]
        for n in self.members.pop(old):
            self.group[n] = new
            self.members[new].append(n)

    def _fits_frame(self, places: np.ndarray) -> bool:
        height, width = places.max(axis=0) - places.min(axis=0) + 1
        upright = height <= self.rows and width <= self.columns
        return upright or (self.turns and height <= self.columns and width <= self.rows)

    def _fits(self) -> Iterator[tuple[int, int, int, Look]]:
        """Pieces a and b, the turns of a, and the look of b with which it fits to the right of that a."""
        poses = range(8) if self.turns else range(4)
        turned = {d: _posed(self.pieces, d) for d in poses}
        looks = [(d, negated, order) for d in poses for negated in self.negations for order in self.orders]
        right = np.stack([_edge(turned[d], (-1, -2)) for d in range(4)], axis=1)  # [G, 4, 2bC]
        left = {d: _edge(turned[d], (0, 1), swapped=True) for d in poses}
        others = [_recoloured(left[d], negated, order) for d, negated, order in looks]
        found: list[tuple[float, int, int, int, int]] = []
        g = len(self.pieces)
        for turn in range(4):
            chosen = [n for n, look in enumerate(looks) if self.turns or look[0] == turn]
            against = np.concatenate([others[n] for n in chosen])
            squares = (against**2).sum(axis=1)
            for first in range(0, g, ROWS_AT_ONCE):
                own = right[first : first + ROWS_AT_ONCE, turn]
                distances = (own**2).sum(axis=1, keepdims=True) + squares - 2 * own @ against.T
                for row, distance in enumerate(distances):
                    distance.reshape(len(chosen), g)[:, first + row] = np.inf  # no piece fits to itself
                    short = np.argpartition(distance, min(SHORTLIST, len(distance) - 1))[:SHORTLIST]
                    misses = np.abs(against[short] - own[row]).sum(axis=1)
                    best = np.argsort(misses)[:CANDIDATES]
                    rival = misses[best[1]] + 1  # a piece that fits in two looks fits surely in neither
                    for score, index in zip((misses[best] + 1) / rival, short[best]):
                        found.append(
                            (float(score), first + row, turn, int(index % g), chosen[int(index // g)])
                        )
        for _, a, turn, b, number in sorted(found):
            d, negated, order = looks[number]
            yield a, turn, b, Look(POSES[d], negated, order)

    # --- what it came to ------------------------------------------------------------------------

    def compared(self, original: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The picture, the share of neighbours and the share of places that are right."""
        truth = self._truth(original.reshape(len(self.pieces), *original.shape[2:]))
        # What was done to the whole group to make it the original: pieces that agree lie right to each other.
        keys, frames = {}, {}
        for n, found in truth.items():
            where, look = found
            frame = look.back().then(self.look[n])  # from the original to the assembly
            offset = self.place[n] - frame.pose @ where
            keys[n] = (self.group[n], frame.key(), tuple(int(o) for o in offset))
            frames[keys[n]] = frame, offset
        at = {tuple(int(p) for p in truth[n][0]): keys[n] for n in truth}
        pairs = [
            (key, at[row + down, column + across])
            for (row, column), key in at.items()
            for down, across in ((0, 1), (1, 0))
            if (row + down, column + across) in at
        ]
        neighbours = 2 * self.rows * self.columns - self.rows - self.columns
        best, count = Counter(keys.values()).most_common(1)[0]
        picture = np.full((self.rows, self.columns, *self.pieces.shape[1:]), HOLE, np.uint8)
        frame, offset = frames[best]
        for n in self.members[best[0]]:
            row, column = (frame.pose.T @ (self.place[n] - offset)).astype(int)
            if 0 <= row < self.rows and 0 <= column < self.columns:
                picture[row, column] = self.look[n].then(frame.back()).of(self.pieces[n])
        c = self.pieces.shape[-1]
        joined = picture.transpose(0, 2, 1, 3, 4).reshape(self.rows * self.size, -1, c)
        right = sum(a == b for a, b in pairs) / max(neighbours, 1)
        return joined, right, count / len(self.pieces)

    def _truth(self, original: np.ndarray) -> dict[int, tuple[np.ndarray, Look]]:
        """Of each piece its place in the original, and the look with which it is there; each place once."""
        poses = range(8) if self.turns else range(1)
        places: dict[bytes, list[int]] = {}
        for n, block in enumerate(original):
            places.setdefault(block.tobytes(), []).append(n)
        found = {}
        for n, piece in enumerate(self.pieces):
            for d, negated, order in itertools.product(poses, self.negations, self.orders):
                look = Look(POSES[d], negated, order)
                left = places.get(np.ascontiguousarray(look.of(piece), np.float32).tobytes())
                if left:
                    found[n] = np.array(divmod(left.pop(), self.columns)), look
                    break
        return found


def _posed(pieces: np.ndarray, d: int) -> np.ndarray:
    turned = np.rot90(pieces, d % 4, axes=(1, 2))
    return turned[:, :, ::-1] if d >= 4 else turned


def _edge(pieces: np.ndarray, columns: tuple[int, int], swapped: bool = False) -> np.ndarray:
    """The outermost column, and what it and the next one foretell of the neighbour's, around 0: float32
    [G, 2, b, C]."""
    outer, inner = (pieces[:, :, column] - np.float32(MIDDLE) for column in columns)
    both = [outer, 2 * outer - inner]
    return np.stack(both[::-1] if swapped else both, axis=1).reshape(len(pieces), -1)


def _recoloured(edges: np.ndarray, negated: bool, order: tuple[int, ...]) -> np.ndarray:
    channels = edges.reshape(len(edges), -1, len(order))[..., list(order)].reshape(edges.shape)
    return -channels if negated else channels
