"""Known and chosen plaintexts recover the transform of every preset, and nothing of a random oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blockenc import Cipher, Key, Scheme
from blockenc.attacks import plaintext
from blockenc.schemes import PE, PRESETS
from blockenc.steps import Colour, Np, Scramble, Shuffle
from tests.attack_images import pictures

KEY = Key(bytes(range(32)))
# Chosen images for 32 x 32 pixels. One is the least there is; that ELE needs two is shown below.
IMAGES = {**dict.fromkeys(PRESETS, 1), "ELE": 2}
OTHERS = {
    "all three": (Scheme(), 2),
    "decimal": (Scheme(ffx="decimal"), 3),
    "PE with colours": (PE(colour=True), 1),
    "blocks of another size": (Scheme(8, [Scramble(4, "image"), "shuffle", "np"]), 2),
    "scramble, ffx": (Scheme(4, [Scramble(period="image"), "ffx"]), 7),
    "pixels": (Scheme(1, [Scramble(period="image"), Colour(period="image")]), 2),
    "nibbles of the image": (Scheme(8, [Shuffle(period="image", cells="nibble"), "np"]), 3),
}


def oracle_of(scheme: Scheme) -> plaintext.Oracle:
    cipher = Cipher(KEY, scheme)
    dtype = torch.uint16 if scheme.is_decimal else torch.uint8
    return lambda images: cipher.encrypt(images, dtype=dtype)


def random_images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(seed))


@pytest.mark.parametrize("name", [*PRESETS, *OTHERS])
def test_chosen_images_recover_the_transform(name: str) -> None:
    scheme, images = (PRESETS[name](), IMAGES[name]) if name in PRESETS else OTHERS[name]
    found = plaintext.chosen_plaintext(scheme, oracle_of(scheme), random_images(2, seed=1))
    assert found.scores == {"share": 1.0}
    assert found.used["images"] == images
    fresh = pictures(2, 32)
    encrypted = oracle_of(scheme)(fresh)
    assert torch.equal(found.recovered.decrypt(encrypted), fresh)
    assert torch.equal(found.recovered.encrypt(fresh).int(), encrypted.int())
    assert "array" not in repr(found) + repr(found.recovered)  # a secret


def test_two_images_are_the_least_for_ele() -> None:
    """One tells 8 bits a value, and the secret orders alone have more: 64 permutations of 96 nibbles."""
    bits_of_an_image = 8 * 32 * 32 * 3
    assert bits_of_an_image < 64 * math.lgamma(97) / math.log(2) < 2 * bits_of_an_image
    scheme = PRESETS["ELE"]()
    found = plaintext.chosen_plaintext(scheme, oracle_of(scheme), random_images(2, seed=1), most=1)
    assert found.scores["share"] < 0.5


@pytest.mark.parametrize("name, blocks", [("SHF", 1), ("NP", 1), ("LE", 2)])
def test_the_least_blocks(name: str, blocks: int) -> None:
    """Of 4 x 4 pixels, for LE fewer than the 16 that were published; one block tells 384 bits of its 590."""
    scheme = PRESETS[name]()
    assert scheme.key_space_bits() > 384 * (blocks - 1)
    x = random_images(2)[..., :4, : 4 * blocks].contiguous()
    found = plaintext.chosen_plaintext(scheme, oracle_of(scheme), x, most=1)
    assert found.scores == {"share": 1.0}


@pytest.mark.parametrize("name", list(PRESETS))
def test_known_pairs_recover_the_transform(name: str) -> None:
    """Of smooth pictures, which tell less apart than chosen ones."""
    scheme, encrypt = PRESETS[name](), oracle_of(PRESETS[name]())
    x = pictures(20, 32)
    found = plaintext.known_plaintext(scheme, x[:16], encrypt(x[:16]), x[16:], encrypt(x[16:]))
    assert found.scores["share"] == 1
    assert found.used["pairs"] <= 16
    assert found.scores["share of 1 pair"] <= 1


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_random_oracle_gives_chance(name: str) -> None:
    random = np.random.default_rng(0)

    def oracle(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, 256, images.shape, np.uint8))

    found = plaintext.chosen_plaintext(PRESETS[name](), oracle, random_images(4), most=3)
    assert found.scores["share"] == pytest.approx(1 / 256, abs=0.002)
    assert found.used["images"] <= 3


def test_keys_for_each_image_give_chance() -> None:
    cipher = Cipher(KEY, PRESETS["SHF"](), per_image=True)
    count = iter(range(1000))
    x = random_images(4)
    found = plaintext.chosen_plaintext(
        cipher.scheme, lambda images: cipher.encrypt(images, ids=[next(count) for _ in images]), x, most=3
    )
    assert found.scores["share"] < 0.05  # 1 of 48 values stays in place


def test_chosen_images_differ_within_what_is_exchanged() -> None:
    """Every nibble of a block of ELE has another code, up to negation, taken over both images."""
    chosen = plaintext.chosen_images(PRESETS["ELE"](), 32, 32, 2)
    assert chosen.shape == (2, 3, 32, 32)
    block = chosen[:, :, 4:8, 8:12].reshape(2, -1).numpy()
    nibbles = np.concatenate([block % 16, block // 16], axis=1).T
    codes = {tuple(code) for code in np.where(nibbles[:, :1] > 7, 15 - nibbles, nibbles)}
    assert len(codes) == 96


def test_what_does_not_fit_is_refused() -> None:
    nibbles = Scheme(4, ["ffx", Np(cells="nibble")])
    x = random_images(1)
    with pytest.raises(ValueError, match="scheme: expected one without nibbles beside ffx"):
        plaintext.recover(nibbles, x, x)
    with pytest.raises(ValueError, match="images: expected multiples of 4 pixels, got 30 x 32"):
        plaintext.recover(Scheme(), x[:, :, :30], x)
    with pytest.raises(ValueError, match="encrypted: expected as many images as plain ones, 1, got 2"):
        plaintext.recover(Scheme(), x, random_images(2))
    with pytest.raises(ValueError, match="plain: expected at least one pair"):
        plaintext.known_plaintext(Scheme(), x[:0], x[:0], x, x)
