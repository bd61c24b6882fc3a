"""Jigsaws and learned inverses: what they recover of weak schemes, and that they fail on noise."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from blockenc import Cipher, Key, Scheme
from blockenc.attacks import learned
from blockenc.attacks.jigsaw import POSES, Look, _Puzzle, jigsaw, why_not
from blockenc.schemes import ELE, ETC, PRESETS
from blockenc.steps import Colour, Np, Rotate, Scramble, Shuffle
from tests.attack_images import pictures

KEY = Key(bytes(range(32)))
SCRAMBLE, ROTATE = Scramble(period="image"), Rotate(period="image")
NEGATE, COLOUR = Np(unit="block", period="image"), Colour(period="image")


@pytest.mark.parametrize(
    "steps",
    [
        (SCRAMBLE,),
        (SCRAMBLE, ROTATE),
        (SCRAMBLE, NEGATE),
        (COLOUR, SCRAMBLE),
        (SCRAMBLE, ROTATE, NEGATE, COLOUR),
    ],
    ids=lambda steps: ",".join(step.kind for step in steps),
)
def test_smooth_pictures_are_put_together_again(steps: tuple) -> None:
    x = pictures(2, 96, seed=3, smooth=2.5)
    scheme = Scheme(16, steps)
    found = jigsaw(scheme, Cipher(KEY, scheme).encrypt(x), x)
    assert found.scores["neighbours"] == found.scores["places"] == 1
    assert torch.equal(found.recovered, x)
    assert found.used["images"] == 2


def test_rough_pictures_are_put_together_in_part() -> None:
    """Which needs that the surest fits join first: in the order of the misses alone it is below 0.4."""
    x = pictures(4, 96, seed=4, smooth=1.2)
    found = jigsaw(ETC(), Cipher(KEY, ETC()).encrypt(x), x)
    assert 0.45 < found.scores["neighbours"] < 1


def test_noise_is_not_put_together() -> None:
    x = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.manual_seed(0))
    found = jigsaw(ETC(), Cipher(KEY, ETC()).encrypt(x), x)
    assert found.scores["neighbours"] < 0.1
    assert found.scores["places"] < 0.15


def test_groups_have_one_piece_a_place_and_stay_in_the_frame() -> None:
    """Of noise, in which most fits are wrong."""
    x = torch.randint(0, 256, (3, 48, 96), dtype=torch.uint8, generator=torch.manual_seed(1))
    puzzle = _Puzzle(ETC(8), x)
    puzzle.join()
    assert max(len(members) for members in puzzle.members.values()) > 3
    for members in puzzle.members.values():
        places = np.array([puzzle.place[n] for n in members])
        assert len(np.unique(places, axis=0)) == len(members)
        assert (np.sort(places.max(axis=0) - places.min(axis=0) + 1) <= [6, 12]).all()


def test_looks_compose_as_pictures_do() -> None:
    piece = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.float32)
    orders = list(itertools.permutations(range(3)))
    looks = [Look(POSES[d], d % 3 == 0, orders[d % 6]) for d in range(8)]
    for first, second in itertools.product(looks, repeat=2):
        np.testing.assert_array_equal(first.then(second).of(piece), second.of(first.of(piece)))
    for look in looks:
        np.testing.assert_array_equal(look.then(look.back()).of(piece), piece)
    assert len({pose.tobytes() for pose in POSES}) == 8


def test_what_is_no_puzzle_is_refused() -> None:
    puzzles = [name for name, preset in PRESETS.items() if not why_not(preset())]
    assert puzzles == ["ETC", "VIT_ETC"]
    assert why_not(Scheme(16, [ROTATE])) == "no block moves"
    with pytest.raises(ValueError, match="scheme: expected blocks that move as a whole"):
        jigsaw(ELE(), pictures(1), pictures(1))


def test_a_network_learns_what_survives_every_key() -> None:
    """Of a shuffle of two pixels' values nearly all survives; of ELE's nibbles nothing."""
    x = pictures(12, 32)
    weak = Scheme(1, [Shuffle()])
    kept = learned.inverse_transform(weak, x[:8], Cipher(KEY, weak).encrypt(x[8:]), x[8:], steps=40)
    assert kept.scores["SSIM"] > kept.scores["SSIM of guessing"] + 0.3
    assert kept.used["steps"] == 40
    hidden = learned.inverse_transform(ELE(), x[:8], Cipher(KEY, ELE()).encrypt(x[8:]), x[8:], steps=40)
    assert hidden.scores["SSIM"] < hidden.scores["SSIM of guessing"] + 0.1


def test_every_piece_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[int] = []

    class Watched(Cipher):
        def encrypt(self, *args: Any, **options: Any) -> Any:
            ids.extend(options["ids"])
            return super().encrypt(*args, **options)

    monkeypatch.setattr(learned, "Cipher", Watched)
    x = pictures(2, 32)
    learned.inverse_transform(ELE(), x, x, x, steps=2)
    assert len(set(ids)) == 2 * learned.BATCH


def test_training_ends_in_time_and_says_what_does_not_fit() -> None:
    x = pictures(3, 32)
    assert learned.inverse_transform(ELE(), x, x, x, seconds=0).used["steps"] == 0
    with pytest.raises(ValueError, match="photos: expected at least 32 x 32 pixels, got 16 x 16"):
        learned.inverse_transform(ELE(), x[..., :16, :16], x, x)
    with pytest.raises(ValueError, match="photos: expected multiples of 4 pixels"):
        learned.inverse_transform(ELE(), pictures(1, 34), x, x)
