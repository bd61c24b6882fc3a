"""Keys as published code has them, restated here in plain NumPy from its description, are explicit secrets.

Images are uint8 [H, W, 3]. Each function below is a scheme as its authors' code has it, with its own order of
steps and its own numbering of values; the tests put the same key into an `ExplicitKey` and compare all bytes.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from blockenc import Cipher, ExplicitKey, Scheme
from blockenc.schemes import ETC, PE, VIT
from blockenc.steps import Np, Rotate, Scramble, Shuffle

IMAGE = "image"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(17)


def photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks_of(x: np.ndarray, b: int) -> list[np.ndarray]:
    """The blocks [b, b, 3], row by row."""
    return [x[i : i + b, j : j + b] for i in range(0, x.shape[0], b) for j in range(0, x.shape[1], b)]


def image_of(blocks: list[np.ndarray], columns: int) -> np.ndarray:
    rows = [np.concatenate(blocks[n : n + columns], axis=1) for n in range(0, len(blocks), columns)]
    return np.concatenate(rows, axis=0)


def check(x: np.ndarray, want: np.ndarray, scheme: Scheme, *secrets: object) -> None:
    cipher = Cipher(ExplicitKey(secrets), scheme)
    assert np.array_equal(cipher.encrypt(x), want)
    assert not np.array_equal(want, x)
    assert np.array_equal(cipher.decrypt(want), x)


# --- LE and ELE ---------------------------------------------------------------------------------


def le(block: np.ndarray, key: np.ndarray) -> np.ndarray:
    """LE of one block of 4 x 4 (M. Tanaka, ICCE-TW 2018): key is a permutation of 0..95."""
    values = block.reshape(48)
    nibbles = np.concatenate([values & 15, values >> 4])
    reverse = key > 48
    nibbles = np.where(reverse, 15 - nibbles, nibbles)[key]
    nibbles = np.where(reverse, 15 - nibbles, nibbles)
    return (nibbles[48:] * 16 + nibbles[:48]).astype(np.uint8).reshape(4, 4, 3)


def test_le(rng: np.random.Generator) -> None:
    x, key = photo(rng, 32, 48), rng.permutation(96)
    assert (key > 48).sum() == 47  # fewer than half: any number may be selected
    scheme = Scheme(4, [Np(cells="nibble"), Shuffle(cells="nibble"), Np(cells="nibble")])
    check(x, image_of([le(block, key) for block in blocks_of(x, 4)], 12), scheme, key > 48, key, key > 48)


def test_ele(rng: np.random.Generator) -> None:
    """LE with a key for each of 64 blocks, then out block i is block order[i] (arXiv 2001.07761)."""
    x, order = photo(rng, 32, 32), rng.permutation(64)
    keys = np.stack([rng.permutation(96) for _ in range(64)])
    done = [le(block, key) for block, key in zip(blocks_of(x, 4), keys)]
    nibbles = {"cells": "nibble", "period": IMAGE}
    scheme = Scheme(4, [Np(**nibbles), Shuffle(**nibbles), Np(**nibbles), Scramble(period=IMAGE)])
    check(x, image_of([done[n] for n in order], 8), scheme, keys > 48, keys, keys > 48, order)


# --- PE -----------------------------------------------------------------------------------------

# The number of a pixel's order: RGB, RBG, GRB, GBR, BRG, BGR.
ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


@pytest.mark.parametrize("colour", [False, True])
def test_pe(rng: np.random.Generator, colour: bool) -> None:
    """A mask of the image's size, with p = 1/2, and optionally an order for each pixel (ICIP 2019)."""
    x = photo(rng, 24, 36)
    mask, numbers = rng.random(x.shape) < 0.5, rng.integers(0, 6, x.shape[:2])
    want = np.where(mask, 255 - x, x)
    if colour:
        want = np.take_along_axis(want, ORDERS[numbers], axis=2)
    check(x, want, PE(colour=colour), mask, *([numbers] if colour else []))


# --- ViT ----------------------------------------------------------------------------------------


def in_our_order(of_values: np.ndarray, b: int) -> np.ndarray:
    """Where the values of a patch, numbered by row, column, channel, lie in order of channel, row, column."""
    return np.arange(of_values.size).reshape(3, b, b).transpose(1, 2, 0).ravel()


@pytest.mark.parametrize("flips", [False, True])
def test_vit(rng: np.random.Generator, flips: bool) -> None:
    """Values of a patch are numbered by channel, row, column, permuted, and some negated; patches change
    places (arXiv 2207.05366)."""
    b, x = 16, photo(rng, 48, 80)
    permutation, mask, order = rng.permutation(768), rng.random(768) < 0.5, rng.permutation(15)
    done = []
    for block in blocks_of(x, b):
        values = block.transpose(2, 0, 1).reshape(768)[permutation]
        values = np.where(mask, 255 - values, values) if flips else values
        done.append(values.reshape(3, b, b).transpose(1, 2, 0))
    want = image_of([done[n] for n in order], 5)
    theirs = in_our_order(permutation, b)
    ours = np.argsort(theirs)[permutation[theirs]]
    if flips:
        check(x, want, VIT(), order, ours, mask[theirs])
    else:
        check(x, want, Scheme(16, [Scramble(period=IMAGE), Shuffle()]), order, ours)


# --- EtC ----------------------------------------------------------------------------------------


def test_etc(rng: np.random.Generator) -> None:
    """As the papers have it: turned by quarters, mirrored in none, one or both directions, negated with
    probability 1/2, and one of six orders of colours; not as the published code, whose colours are no
    permutation."""
    x, b = photo(rng, 48, 64), 16
    order = rng.permutation(12)
    quarters, mirrors = rng.permutation(12) % 4, rng.permutation(12) % 4
    negated, colours = rng.random(12) < 0.5, rng.integers(0, 6, 12)
    done, poses = [], []
    for n, block in enumerate(blocks_of(x, b)[g] for g in order):
        turned = np.rot90(block, quarters[n])
        turned = turned[:, ::-1] if mirrors[n] & 1 else turned
        turned = turned[::-1] if mirrors[n] & 2 else turned
        done.append((255 - turned if negated[n] else turned)[..., ORDERS[colours[n]]])
        # Mirrored in both directions is half a turn; upside down is half a turn and left to right.
        half_turn = 2 if mirrors[n] & 2 else 0
        poses.append((quarters[n] + half_turn) % 4 + 4 * (mirrors[n] in (1, 2)))
    check(x, image_of(done, 4), ETC(), order, poses, negated, colours)


def test_poses_are_all_turns_and_mirrorings() -> None:
    """The papers' 16 combinations are 8 poses, each twice, so that their 8^N counts what differs."""
    block = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    seen = set()
    for quarters, rows, columns in itertools.product(range(4), (1, -1), (1, -1)):
        seen.add(np.rot90(block, quarters)[::rows, ::columns].tobytes())
    ours = set()
    for pose in range(8):
        ours.add(Cipher(ExplicitKey([[pose]]), Scheme(2, [Rotate()])).encrypt(block).tobytes())
    assert seen == ours
    assert len(seen) == 8
