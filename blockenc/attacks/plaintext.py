"""Known and chosen plaintexts: the transform itself, out of images and their encryptions.

A scheme without keys for each image is one fixed function: every cell (byte or nibble) of the result is one
cell of the image, mapped by a table. What is recovered is that function, not the 32 bytes of the key; it
encrypts and decrypts every image of the same size as the key does.

The attacker knows the scheme, and uses it in three ways. Where all periods are treated alike, one image has
as many examples of the one secret as it has periods. Where blocks move as a whole, the values in a block,
in any order, tell which block it is. And inside of a block a cell can only come from those cells that the
steps exchange with it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from blockenc.attacks.base import Result
from blockenc.blocks import to_images, to_vectors
from blockenc.scheme import Scheme
from blockenc.steps import IMAGE, Colour, Ffx, Np, Rotate, Scramble, Shuffle, Step

Oracle = Callable[[torch.Tensor], torch.Tensor]

BYTES, NIBBLES, DECIMALS = 256, 16, 1000  # the values of a cell, and of one after a decimal ffx
AS_IT_IS, NEGATED = 0, 1  # the tables that everybody knows
UNKNOWN = -1
MOST_CODED = 7  # examples whose values are chosen together; the others are drawn
CODING_IMAGES = 6  # of two values only, where tables are unknown and blocks move


class _Frame:
    """How the scheme, which is public, cuts images into units, and what its steps may exchange.

    units: side x side pixels, inside of which all cells stay, while the units may move as a whole. `alike`
    says that the same is done to the cells of every unit.
    """

    def __init__(self, scheme: Scheme, height: int, width: int) -> None:
        why_not = refusal(scheme)
        if why_not:
            raise ValueError(f"scheme: {why_not}")
        if height % scheme.side or width % scheme.side:
            raise ValueError(f"images: expected multiples of {scheme.side} pixels, got {height} x {width}")
        self.scheme, self.height, self.width = scheme, height, width
        self.steps = [step for step in scheme.bound_steps if not step.is_idle]
        of_image = [step for step in self.steps if step.period == IMAGE]
        moving = [step for step in of_image if isinstance(step, Scramble)]
        self.side = scheme.side
        self.whole = any(step.block_size != self.side for step in moving)  # the image is the only unit
        self.moves = bool(moving) and not self.whole
        self.alike = not self.whole and len(moving) == len(of_image)
        self.nibbles = any(getattr(step, "cells", "byte") == "nibble" for step in self.steps)
        self.unknown_tables = any(isinstance(step, Ffx) for step in self.steps)
        self.values = NIBBLES if self.nibbles else BYTES
        rows, columns = (height, width) if self.whole else (self.side, self.side)
        self.units = height * width // (rows * columns)
        still = [step for step in self.steps if not (self.moves and step in moving)]
        self.orbits = _orbits(still, rows, columns, scheme.channels, 2 if self.nibbles else 1)

    def cells(self, images: torch.Tensor) -> np.ndarray:
        """Images [N, C, H, W] as the cells of their units, integers [N, units, n]."""
        n, c, h, w = images.shape
        if (c, h, w) != (self.scheme.channels, self.height, self.width):
            wanted = f"[N, {self.scheme.channels}, {self.height}, {self.width}]"
            raise ValueError(f"images: expected {wanted}, got {list(images.shape)}")
        wide = images.to(torch.int32)
        vectors = wide.permute(0, 2, 3, 1).reshape(n, 1, -1) if self.whole else to_vectors(wide, self.side)
        found = vectors.numpy()
        if self.nibbles:
            found = np.concatenate([found % NIBBLES, found // NIBBLES], axis=-1)
        return found

    def images(self, cells: np.ndarray) -> torch.Tensor:
        """The inverse of `cells`, as uint8, or uint16 where a value is above 255."""
        if self.nibbles:
            low, high = np.split(cells, 2, axis=-1)
            cells = low + NIBBLES * high
        kind = torch.uint8 if cells.max(initial=0) < BYTES else torch.uint16
        vectors = torch.from_numpy(np.ascontiguousarray(cells)).to(kind)
        c, h, w = self.scheme.channels, self.height, self.width
        if self.whole:
            return vectors.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        return to_images(vectors, self.side, c, h, w)


def unit_orbits(scheme: Scheme) -> np.ndarray:
    """For each value of a block of scheme.side pixels the number of its orbit, integers [L]: the values that
    the steps may exchange with it. Of schemes that treat all such blocks alike, and move no nibbles.

    >>> unit_orbits(Scheme(2, ["np"], channels=1)).tolist()
    [0, 1, 2, 3]
    """
    steps = [step for step in scheme.bound_steps if not step.is_idle]
    return _orbits(steps, scheme.side, scheme.side, scheme.channels, 1)


def _orbits(steps: Sequence[Step], rows: int, columns: int, channels: int, halves: int) -> np.ndarray:
    """For each cell of a unit the number of its orbit: the cells that may change places with it."""
    cells = np.indices((halves, rows, columns, channels)).reshape(4, -1)
    found = np.arange(cells.shape[1])
    partitions = [
        np.unique(_exchanged(step, cells), axis=1, return_inverse=True)[1].ravel()
        for step in steps
        if not isinstance(step, (Np, Ffx))
    ]
    before = np.full_like(found, -1)
    while (before != found).any():
        before = found.copy()
        for partition in partitions:
            least = np.full(partition.max() + 1, len(found))
            np.minimum.at(least, partition, found)
            found = least[partition]
    return np.unique(found, return_inverse=True)[1].ravel()


def _exchanged(step: Step, cells: np.ndarray) -> np.ndarray:
    """What a step leaves alone of the coordinates of cells, integers [m, n]: those that agree in it may
    change places. cells: half, row, column and channel, [4, n]."""
    half, row, column, channel = cells
    b = step.block_size
    assert b is not None
    if isinstance(step, Shuffle):
        return np.stack([half if step.cells == "byte" else 0 * half, row // b, column // b])
    if isinstance(step, Colour):
        return np.stack([half, row, column])
    if isinstance(step, Rotate):
        # The eight poses take the distances from the nearer edges to themselves, or exchange the two.
        near = np.sort([np.minimum(place % b, b - 1 - place % b) for place in (row, column)], axis=0)
        return np.stack([half, row // b, column // b, *near, channel])
    assert isinstance(step, Scramble)
    if step.period == IMAGE:
        return np.stack([half, row % b, column % b, channel])
    period = step.period
    assert isinstance(period, int)
    return np.stack([half, row // period, column // period, row % b, column % b, channel])


def refusal(scheme: Scheme) -> str:
    """Why these attacks do not work on a scheme, "" where they do.

    >>> from blockenc.steps import Shuffle
    >>> refusal(Scheme()), refusal(Scheme(4, ["ffx", Shuffle(cells="nibble")]))[:26]
    ('', 'expected one without nibbl')
    """
    nibbles = any(getattr(step, "cells", "byte") == "nibble" for step in scheme.bound_steps)
    if nibbles and "ffx" in scheme.kinds:
        return "expected one without nibbles beside ffx, whose table takes both halves of a value together"
    kinds = (Shuffle, Np, Ffx, Colour, Rotate, Scramble)
    others = [step.kind for step in scheme.bound_steps if not isinstance(step, kinds)]
    return f"expected steps whose orbits are known, got {', '.join(others)}" if others else ""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Recovered:
    """A transform that does what the key does, to images of one size. Holds a secret: its repr shows nothing.

    moves: integers [units], the unit of the image that each unit of the result is made of.
    source: integers [V, n], the cell that each cell of a unit of the result is made of; V is 1 where all
        units are treated alike, else the number of units.
    table_of: integers [V, n], the row of `tables` that maps it.
    tables: integers [T, values], -1 where nothing is known of a value.
    """

    frame: _Frame
    moves: np.ndarray
    source: np.ndarray
    table_of: np.ndarray
    tables: np.ndarray

    def encrypt(self, images: torch.Tensor) -> torch.Tensor:
        """What the key would make of the images, uint8 [N, C, H, W] (uint16 after a decimal ffx)."""
        read = np.take_along_axis(self.frame.cells(images)[:, self.moves], self.source[None], axis=2)
        found = self.tables[self.table_of, read]
        return self.frame.images(np.where(found == UNKNOWN, read, found))

    def decrypt(self, images: torch.Tensor) -> torch.Tensor:
        """The plain images, uint8 [N, C, H, W]. Values of which nothing is known stay as they are."""
        cells = self.frame.cells(images)
        inverse = np.full((len(self.tables), DECIMALS), UNKNOWN)
        row, value = np.nonzero(self.tables != UNKNOWN)
        inverse[row, self.tables[row, value]] = value
        found = inverse[self.table_of, np.minimum(cells, DECIMALS - 1)]
        found = np.where(found == UNKNOWN, np.minimum(cells, self.frame.values - 1), found)
        sorted_back = np.take_along_axis(found, np.argsort(self.source, axis=1)[None], axis=2)
        return self.frame.images(sorted_back[:, np.argsort(self.moves)])


# --- recovery -----------------------------------------------------------------------------------


def recover(scheme: Scheme, plain: torch.Tensor, encrypted: torch.Tensor) -> Recovered:
    """The transform that makes `encrypted` of `plain`, or the one that fits best.

    plain, encrypted: uint8 [K, C, H, W]; encrypted may be uint16, of a decimal ffx. Where the images do not
    tell cells or units apart, any of the assignments that fit is returned. Raises ValueError where `refusal`
    says why, or for sizes that do not fit.

    >>> import blockenc
    >>> scheme, key = blockenc.Scheme(2, ["shuffle", "np"]), blockenc.Key(bytes(range(32)))
    >>> x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    >>> found = recover(scheme, x[:1], blockenc.encrypt(x[:1], key, scheme=scheme))
    >>> torch.equal(found.decrypt(blockenc.encrypt(x, key, scheme=scheme)), x)
    True
    """
    frame = _Frame(scheme, *plain.shape[-2:])
    before, after = frame.cells(plain), frame.cells(encrypted)
    if before.shape != after.shape:
        raise ValueError(f"encrypted: expected as many images as plain ones, {len(before)}, got {len(after)}")
    moves = np.arange(frame.units)
    if frame.moves:
        moves = _paired(_unit_names(before, frame), _unit_names(after, frame))
    read = before[:, moves]
    if frame.alike:  # every unit is an example more
        read, after = (cells.reshape(-1, 1, cells.shape[-1]) for cells in (read, after))
    units = np.arange(read.shape[1])[:, None]
    names = [_names(cells, frame, np.random.default_rng(0)) for cells in (read, after)]
    orbits = np.broadcast_to(frame.orbits, names[0].shape)
    place = np.broadcast_to(units, names[0].shape)
    keys = [np.stack([name.ravel(), orbits.ravel(), place.ravel()]) for name in names]
    n = read.shape[2]
    source = (_paired(*keys) % n).reshape(-1, n)
    read = np.take_along_axis(read, source[None], axis=2)
    tables, table_of = _tables(read, after, frame)
    return Recovered(frame, moves, source, table_of, tables)


def _paired(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """For each of `after` the index of its like in `before`, each used once; keys [n] or [m, n]."""
    found = np.empty(before.shape[-1], np.int64)
    found[np.lexsort(np.atleast_2d(after))] = np.lexsort(np.atleast_2d(before))
    return found


def _names(cells: np.ndarray, frame: _Frame, random: np.random.Generator) -> np.ndarray:
    """A number for each cell, uint64 [units, n], that the tables cannot change: of its values in all images
    [R, units, n], up to what a table may do to them."""
    if frame.unknown_tables:
        rows = np.arange(len(cells))[:, None, None]
        unit, cell = np.arange(cells.shape[1])[:, None], np.arange(cells.shape[2])
        first: np.ndarray = np.full((*cells.shape[1:], DECIMALS), len(cells), np.int32)
        index = unit, cell, cells
        np.minimum.at(first, index, np.broadcast_to(rows, cells.shape))
        seen = first[index]  # when each value came first: the same after every table
    else:
        seen = np.where(cells[:1] >= frame.values // 2, frame.values - 1 - cells, cells)
    weights = random.integers(1, 2**63, len(cells), np.uint64)
    with np.errstate(over="ignore"):
        return np.asarray(np.einsum("rgn,r->gn", seen.astype(np.uint64), weights))


def _unit_names(cells: np.ndarray, frame: _Frame) -> np.ndarray:
    """A number for each unit, of what is in each of its orbits, in any order."""
    names = _names(cells, frame, np.random.default_rng(0))
    with np.errstate(over="ignore"):
        mixed = (names + frame.orbits.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        return np.asarray((mixed ^ (mixed >> np.uint64(32))).sum(axis=1, dtype=np.uint64))


def _tables(read: np.ndarray, after: np.ndarray, frame: _Frame) -> tuple[np.ndarray, np.ndarray]:
    """The tables, and the number of that of each cell, out of the values [R, V, n] before and after."""
    values = np.arange(frame.values)
    tables: list[np.ndarray] = [values, values[::-1]]
    negated: np.ndarray = (after != read).sum(axis=0) > (after != frame.values - 1 - read).sum(axis=0)
    table_of = negated.astype(np.int64)
    if not frame.unknown_tables:
        return np.stack(tables), table_of
    known = np.where(negated, frame.values - 1 - read, read)
    for unit, cell in np.argwhere((known != after).any(axis=0)):
        x, y = read[:, unit, cell], after[:, unit, cell]
        agreements = [_agreement(table, x, y) for table in tables[2:]]
        number = int(np.argmax(agreements)) if agreements else UNKNOWN
        if number == UNKNOWN or agreements[number] < 0:
            tables.append(np.full(frame.values, UNKNOWN))
            number = len(tables) - 3
        tables[2 + number][x] = y
        table_of[unit, cell] = 2 + number
    return np.stack([_completed(table) for table in tables]), table_of


def _agreement(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> int:
    """How many of the pairs a table has already; -1 if one contradicts it."""
    has = table[x] != UNKNOWN
    return -1 if (table[x][has] != y[has]).any() else int(has.sum())


def _completed(table: np.ndarray) -> np.ndarray:
    """A permutation that lacks a single value has it."""
    missing = np.flatnonzero(table == UNKNOWN)
    if len(missing) == 1 and table.max() < len(table):
        table[missing] = np.setdiff1d(np.arange(len(table)), table)[:1]
    return table


# --- chosen and known plaintexts ----------------------------------------------------------------


def chosen_images(scheme: Scheme, height: int, width: int, count: int, seed: int = 0) -> torch.Tensor:
    """Images that tell apart all that the scheme may exchange, uint8 [count, C, height, width].

    The cells of an orbit get different values, taken over all examples and up to negation, if there are as
    many: A^K / 2 of K examples of cells with A values. An example is an image, or a block of one where all
    blocks are treated alike. Where tables are unknown, as in ffx, values are drawn at random.

    >>> chosen_images(Scheme(4), 32, 32, 2).shape
    torch.Size([2, 3, 32, 32])
    """
    frame, random = _Frame(scheme, height, width), np.random.default_rng(seed)
    shape = (count, frame.units, len(frame.orbits))
    cells = random.integers(0, frame.values, shape)
    if frame.unknown_tables:
        if frame.moves:
            coding = cells[: min(count, CODING_IMAGES)]
            coding[:] = np.where(coding < frame.values // 2, 0, frame.values - 1)
        return frame.images(cells)
    if frame.moves and frame.alike:  # units have to differ, and tell enough together
        return frame.images(cells)
    examples, rows = (count * frame.units, 1) if frame.alike else (count, frame.units)
    coded = min(examples, MOST_CODED)
    codes = np.empty((rows, shape[2]), np.int64)
    for orbit, size in enumerate(np.bincount(frame.orbits)):
        codes[:, frame.orbits == orbit] = _distinct(frame.values**coded // 2, int(size), rows, random)
    negated = random.integers(0, 2, codes.shape).astype(bool)
    cells = cells.reshape(examples, rows, -1)
    for n in range(coded):
        digit = codes // frame.values ** (coded - 1 - n) % frame.values
        cells[n] = np.where(negated, frame.values - 1 - digit, digit)
    return frame.images(cells.reshape(shape))


def _distinct(classes: int, size: int, rows: int, random: np.random.Generator) -> np.ndarray:
    """Rows of `size` numbers below `classes`, different in a row if there are as many, [rows, size]."""
    stride = classes // size
    if stride < 4:
        orders = np.argsort(random.random((rows, max(classes, size))), axis=1)
        return orders[:, :size] % classes
    stride = min(stride, 2**32)
    starts = np.argsort(random.random((rows, size)), axis=1) * stride
    return starts + random.integers(0, stride, (rows, size))


def _share(recovered: Recovered, plain: torch.Tensor, encrypted: torch.Tensor) -> float:
    """The share of the values of other images that decrypt to what they were."""
    return float((recovered.decrypt(encrypted) == plain).float().mean())


def chosen_plaintext(
    scheme: Scheme, oracle: Oracle, others: torch.Tensor, most: int = 12, seed: int = 0
) -> Result:
    """Recovers the transform with the least number of chosen images, trying one, then two, and so on.

    scheme: public. oracle: encrypts uint8 [K, C, H, W] under the secret key. others: uint8 [N, C, H, W],
    images that are not used: the transform that was found decrypts their encryptions. most: images at most.

    Scores: "share", of the values of the others that are right (1: all of them; two random values are equal
    with 1/256). Used: "images", with which it was reached, and "seconds". Recovered: a `Recovered`.

    Source: the principle is that of all plaintext attacks on permutations (S. Li and others, A general
    quantitative cryptanalysis of permutation-only multimedia ciphers, Signal Processing: Image Communication
    23, 2008); the use of a scheme's units and orbits is ours.

    >>> import blockenc
    >>> cipher = blockenc.Cipher(blockenc.Key(bytes(range(32))), blockenc.schemes.LE())
    >>> others = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    >>> found = chosen_plaintext(cipher.scheme, cipher.encrypt, others)
    >>> found.scores, found.used["images"]
    ({'share': 1.0}, 1.0)
    """
    encrypted = oracle(others)
    height, width = others.shape[-2:]
    start, best = time.perf_counter(), None
    for count in range(1, most + 1):
        chosen = chosen_images(scheme, height, width, count, seed)
        found = recover(scheme, chosen, oracle(chosen))
        share = _share(found, others, encrypted)
        if best is None or share > best[0]:
            best = share, count, found
        if share == 1:
            break
    assert best is not None
    used = {"images": float(best[1]), "seconds": time.perf_counter() - start}
    return Result("chosen plaintext", {"share": best[0]}, used, best[2])


def known_plaintext(
    scheme: Scheme, plain: torch.Tensor, encrypted: torch.Tensor, others: torch.Tensor, target: torch.Tensor
) -> Result:
    """Recovers the transform from pairs, with twice as many each time until it is whole.

    plain, encrypted: uint8 [K, C, H, W], the pairs, in the order in which they are used. others, target:
    other images and their encryptions, to judge by.

    Scores: "share of 1 pair" and "share", of the values of the others that decrypt to what they were, with
    one pair and with as many as were used. Used: "pairs", and "seconds".

    >>> import blockenc
    >>> cipher = blockenc.Cipher(blockenc.Key(bytes(range(32))), blockenc.schemes.NP())
    >>> x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    >>> y = cipher.encrypt(x)
    >>> known_plaintext(cipher.scheme, x[:1], y[:1], x[1:], y[1:]).scores["share"]
    1.0
    """
    start, first, best = time.perf_counter(), None, None
    for count in doubling(len(plain)):
        found = recover(scheme, plain[:count], encrypted[:count])
        share = _share(found, others, target)
        first = share if first is None else first
        if best is None or share > best[0]:
            best = share, count, found
        if share == 1:
            break
    assert best is not None
    assert first is not None
    used = {"pairs": float(best[1]), "seconds": time.perf_counter() - start}
    return Result("known plaintext", {"share of 1 pair": first, "share": best[0]}, used, best[2])


def doubling(most: int) -> Sequence[int]:
    """1, 2, 4, ... up to `most`, which is the last."""
    if most < 1:
        raise ValueError(f"plain: expected at least one pair, got {most}")
    counts = [1 << n for n in range(most.bit_length()) if 1 << n < most]
    return [*counts, most]
