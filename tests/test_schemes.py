"""The published schemes by name, and the size of key spaces."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import pytest
import torch

import blockenc
from blockenc import Cipher, ExplicitKey, Scheme, schemes
from blockenc.schemes import ELE, ETC, FFX, LE, NP, PE, PRESETS, SHF, VIT, VIT_ETC, name_of, named
from blockenc.steps import Colour, Ffx, Np, Rotate, Scramble, Shuffle
from blockenc.steps.base import log2_permutations
from tests import oracle
from tests.schemes import scheme_of, step

WHOLE = {"period": "image"}
NIBBLES = {"cells": "nibble"}
ETC_OF_A_BLOCK = [("rotate", {}), ("np", {"unit": "block"}), ("colour", {})]


def etc(**place: Any) -> list[dict]:
    return [step(kind, **parameters, **place) for kind, parameters in ETC_OF_A_BLOCK]


# What each is, as the oracle reads it, and images that fit.
EXPECTED: dict[str, tuple[Scheme, dict, tuple[int, ...]]] = {
    "SHF": (SHF(), scheme_of(4, 3, step("shuffle")), (2, 3, 8, 12)),
    "NP": (NP(8, channels=1), scheme_of(8, 1, step("np")), (2, 1, 16, 8)),
    "FFX": (FFX(2), scheme_of(2, 3, step("ffx")), (2, 3, 4, 6)),
    "LE": (LE(), scheme_of(4, 3, step("np", **NIBBLES), step("shuffle", **NIBBLES)), (2, 3, 8, 12)),
    "ELE": (
        ELE(),
        scheme_of(
            4,
            3,
            step("np", **NIBBLES, **WHOLE),
            step("shuffle", **NIBBLES, **WHOLE),
            step("scramble", **WHOLE),
        ),
        (2, 3, 8, 12),
    ),
    "ETC": (ETC(), scheme_of(16, 3, step("scramble", **WHOLE), *etc(**WHOLE)), (1, 3, 32, 48)),
    "ETC, 4:4:4": (ETC(8), scheme_of(8, 3, step("scramble", **WHOLE), *etc(**WHOLE)), (2, 3, 16, 24)),
    "PE": (PE(), scheme_of(1, 3, step("np", **WHOLE)), (2, 3, 5, 7)),
    "PE, colours": (
        PE(colour=True),
        scheme_of(1, 3, step("np", **WHOLE), step("colour", unit="pixel", **WHOLE)),
        (2, 3, 5, 7),
    ),
    "VIT": (VIT(), scheme_of(16, 3, step("scramble", **WHOLE), step("shuffle"), step("np")), (1, 3, 32, 48)),
    "VIT_ETC": (
        VIT_ETC(),
        scheme_of(
            8,
            3,
            step("scramble", period=16),
            *etc(period=16),
            step("scramble", block_size=16, **WHOLE),
        ),
        (1, 3, 32, 48),
    ),
    "VIT_ETC, 14": (
        VIT_ETC(14, sub_block_size=7),
        scheme_of(
            7, 3, step("scramble", period=14), *etc(period=14), step("scramble", block_size=14, **WHOLE)
        ),
        (1, 3, 28, 42),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_presets(name: str) -> None:
    """They encrypt as the oracle has it, and survive their JSON form."""
    scheme, definition, shape = EXPECTED[name]
    x = oracle.image(shape)
    y = Cipher(oracle.KEY, scheme).encrypt(x)
    assert torch.equal(y, oracle.expected_of_scheme(x, definition))
    assert torch.equal(Cipher(oracle.KEY, scheme).decrypt(y), x)
    assert Scheme.from_json(scheme.to_json()) == scheme


def test_every_preset_is_found_by_its_name() -> None:
    assert set(PRESETS) == {name.split(",")[0] for name in EXPECTED}
    assert set(PRESETS) == {name for name in schemes.__all__ if inspect.isfunction(getattr(schemes, name))}
    assert all(PRESETS[name] is getattr(schemes, name) for name in PRESETS)
    assert "schemes" in dir(blockenc)
    for preset in PRESETS.values():
        said = inspect.getdoc(preset)
        assert said is not None
        assert all(f"\n{part}: " in said for part in ("Source", "Published code", "Does not withstand"))
        assert preset(channels=1).channels == 1


def test_named() -> None:
    assert named("VIT_ETC", 8, channels=1) == VIT_ETC(8, channels=1)
    assert named("PE") == PE()
    with pytest.raises(ValueError, match=r"^scheme: expected one of SHF, NP, .*, got 'etc'"):
        named("etc")
    with pytest.raises(ValueError, match=r"^block_size: expected none for the scheme PE, got 1"):
        named("PE", 1)


@pytest.mark.parametrize("name", EXPECTED)
def test_names_are_found_again(name: str) -> None:
    """Of all that `named` gives: by their block size alone."""
    given = name_of(EXPECTED[name][0])
    assert given == (None if name == "PE, colours" else name.split(",")[0])


def test_presets_that_are_wrong() -> None:
    with pytest.raises(
        ValueError, match=r"^block_size: expected an even number without sub_block_size, got 7"
    ):
        VIT_ETC(7)
    with pytest.raises(ValueError, match="period: expected a multiple of the block size 5"):
        VIT_ETC(16, sub_block_size=5)
    for preset in PRESETS.values():
        if "block_size" in inspect.signature(preset).parameters:
            with pytest.raises(TypeError, match=r"^block_size: expected an integer"):
                preset(block_size="8")
        with pytest.raises(ValueError, match=r"^channels: expected an integer of at least 1, got 0"):
            preset(channels=0)


# --- key space ----------------------------------------------------------------------------------


def half(n: int) -> int:
    return math.comb(n, n // 2)


@pytest.mark.parametrize(
    "scheme, secrets",
    [
        (SHF(), math.factorial(48)),
        (SHF(1, channels=1), 1),
        (NP(2, channels=1), half(4)),
        (NP(3, channels=1), half(9)),
        (FFX(2), half(12) * 2**256),
        (Scheme(2, [Ffx(profile="decimal", period="image")]), half(12 * 12 * 24) * 2**256),
        (LE(), half(96) * math.factorial(96)),
        (ELE(), half(96 * 72) * math.factorial(96) ** 72 * math.factorial(72)),
        (PE(), half(24 * 48 * 3)),
        (PE(colour=True), half(24 * 48 * 3) * 6 ** (24 * 48)),
        (Scheme(4, [Shuffle(period=8)]), math.factorial(48) ** 4),
        (Scheme(4, [Np(unit="block", period="image")]), half(72)),
        (Scheme(4, [Rotate(period="image"), Colour()], channels=4), 8**72 * 24),
        (Scheme(2, [Scramble(period=4)]), 24),
        (
            Scheme(2, [Scramble(period=4, fixed=1)]),
            15,
        ),  # 1 that leaves all, 6 that leave two, 8 that leave one
        (Scheme(2, [Scramble(period=4, fixed=2)]), 7),
    ],
    ids=lambda value: value.to_json() if isinstance(value, Scheme) else "",
)
def test_key_space(scheme: Scheme, secrets: int) -> None:
    """By whole numbers, for images of 24 x 48."""
    assert scheme.key_space_bits(24, 48) == pytest.approx(math.log2(secrets), rel=1e-12, abs=1e-9)
    if not scheme.depends_on_size:
        assert scheme.key_space_bits() == scheme.key_space_bits(24, 48)


@pytest.mark.parametrize("n", range(2, 8))
def test_permutations_with_fixed_positions_are_counted(n: int) -> None:
    stay = [sum(p == q for p, q in enumerate(a)) for a in itertools.permutations(range(n))]
    for fixed in range(n - 1):
        count = sum(number >= fixed for number in stay)
        assert log2_permutations(n, fixed) == pytest.approx(math.log2(count), abs=1e-12), fixed


def test_the_key_space_that_papers_give() -> None:
    """EtC: 8^N 2^N 6^N N! for N blocks. We negate exactly half of them, so the 2^N are half(N)."""
    n = (224 // 16) ** 2
    published = math.log2(8**n * 2**n * 6**n * math.factorial(n))
    ours = ETC().key_space_bits(224, 224)
    assert published - ours == pytest.approx(n - math.log2(half(n)))
    assert 0 < published - ours < 5


def test_sizes_of_a_key_space_that_are_wrong() -> None:
    for sizes, name in (((), "height"), ((224,), "width"), ((None, 224), "height")):
        with pytest.raises(ValueError, match=f'^{name}: expected a number of pixels, as a period is "image"'):
            ETC().key_space_bits(*sizes)
    with pytest.raises(ValueError, match=r"^width: expected a multiple of 16, got 24"):
        ETC().key_space_bits(32, 24)
    with pytest.raises(ValueError, match=r"^height: expected a multiple of 4, got 6"):
        SHF().key_space_bits(6)
    with pytest.raises(TypeError, match=r"^height: expected an integer"):
        ETC().key_space_bits("224", 224)


# --- restricted permutations --------------------------------------------------------------------


def test_infos_of_fixed_positions() -> None:
    """A number at its default is in no text, so that the secrets of older schemes are what they were."""
    steps = [Scramble(period="image", fixed=147), Shuffle(fixed=576), Shuffle(cells="nibble", fixed=0)]
    scheme = Scheme(16, steps)
    texts = (
        "scramble,fixed=147,b=16,P=224x224;shuffle,cells=byte,fixed=576,b=16,P=16x16;"
        "shuffle,cells=nibble,b=16,P=16x16"
    )
    assert scheme.infos(224, 224) == [[f"blockenc/2/C=3;{texts}/{n}"] for n in range(3)]
    assert scheme.to_dict()["steps"] == [
        {"kind": "scramble", "period": "image", "fixed": 147},
        {"kind": "shuffle", "fixed": 576},
        {"kind": "shuffle", "cells": "nibble"},
    ]
    assert Scheme.from_json(scheme.to_json()) == scheme
    assert (Scheme(4, [Shuffle(fixed=0)]).version, Scheme(4, [Shuffle(fixed=1)]).version) == (1, 2)


@pytest.mark.parametrize("blocks, values", [(120, 500), (147, 576)])
def test_the_settings_of_the_disposable_keys(blocks: int, values: int) -> None:
    """196 patches of 768 values; what stays, stays."""
    number = torch.arange(768, dtype=torch.int16).reshape(16, 16, 3).permute(2, 0, 1)
    low = (number % 256).to(torch.uint8).repeat(1, 14, 14)
    scheme = Scheme(16, [Shuffle(fixed=values)])
    stay = (Cipher(oracle.KEY, scheme).encrypt(low) == low)[:, :16, :16].sum()
    assert values <= stay < 768
    row, column = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    patch = (row * 14 + column).to(torch.uint8)
    x = patch.repeat_interleave(16, 0).repeat_interleave(16, 1).repeat(3, 1, 1)
    scheme = Scheme(16, [Scramble(period="image", fixed=blocks)])
    stay = (Cipher(oracle.KEY, scheme).encrypt(x) == x)[0, ::16, ::16].sum()
    assert blocks <= stay < 196


def test_fixed_positions_that_are_wrong() -> None:
    for make, error, message in (
        (lambda: Shuffle(fixed=-1), ValueError, r"^fixed: expected an integer of at least 0, got -1"),
        (lambda: Scramble(fixed="3"), TypeError, r"^fixed: expected an integer, got '3'"),
        (lambda: Shuffle(fixed=True), TypeError, r"^fixed: expected an integer, got True"),
        (
            lambda: Cipher(oracle.KEY, Scheme(4, [Shuffle(fixed=47)])),
            ValueError,
            r"^fixed: expected 0, or at most 46 of 48 positions, got 47",
        ),
        (
            lambda: Scheme(4, ["np", Scramble(period=8, fixed=3)]).key_space_bits(),
            ValueError,
            r"^fixed: expected 0, or at most 2 of 4 positions, got 3",
        ),
        (
            lambda: Scheme.from_dict({"version": 2, "steps": [{"kind": "shuffle", "fixed": 1.5}]}),
            TypeError,
            r"^steps\[0\]: fixed: expected an integer, got 1.5",
        ),
    ):
        with pytest.raises(error, match=message):
            make()
    cipher = Cipher(oracle.KEY, Scheme(4, [Scramble(period="image", fixed=5)]))
    assert cipher.encrypt(oracle.image((1, 3, 8, 16))).shape == (1, 3, 8, 16)
    with pytest.raises(ValueError, match=r"^fixed: expected 0, or at most 4 of 6 positions, got 5"):
        cipher.encrypt(oracle.image((1, 3, 8, 12)))


def test_explicit_secrets_with_fixed_positions() -> None:
    scheme = Scheme(1, [Scramble(period="image", fixed=2)], channels=1)
    x = oracle.image((1, 2, 2))
    y = Cipher(ExplicitKey([[0, 2, 1, 3]]), scheme).encrypt(x)
    assert y.flatten().tolist() == x.flatten()[[0, 2, 1, 3]].tolist()
    with pytest.raises(
        ValueError, match=r"secrets\[0\], of the step scramble: .*at least 2 numbers in their"
    ):
        Cipher(ExplicitKey([[0, 2, 3, 1]]), scheme).encrypt(x)
