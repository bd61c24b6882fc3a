"""Schemes of version 2 to test on: a few that everybody knows, and strategies that draw any."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hypothesis import strategies as st

FLOATS = ("float32", "float16", "bfloat16")
DTYPES = ("uint8", *FLOATS)
KINDS = ("shuffle", "np", "ffx", "colour", "rotate", "scramble")
# What may follow a decimal ffx: steps that move whole values.
AFTER_DECIMAL = ("shuffle", "colour", "rotate", "scramble")
# The parameters of each kind; the first choice is the default. Stated here on its own, so that the oracle,
# the library and these tests cannot be wrong together.
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "shuffle": {"cells": ("byte", "nibble")},
    "np": {"cells": ("byte", "nibble"), "unit": ("value", "block")},
    "ffx": {"profile": ("byte", "decimal")},
    "colour": {"unit": ("block", "pixel")},
    "rotate": {},
    "scramble": {},
}
# The kinds that have the parameter `fixed`: how many of the positions that they permute stay in place.
WITH_FIXED = ("shuffle", "scramble")


@dataclasses.dataclass(frozen=True)
class Case:
    """A scheme with images that fit it.

    scheme: the dict of its JSON form. shape: [N, C, H, W]. dtype: the images' value type, "uint8" or a float
    type. ids: one for each image (per-image keys), or None.
    """

    scheme: dict[str, Any]
    shape: tuple[int, int, int, int]
    dtype: str = "uint8"
    ids: list[int | str | bytes] | None = None

    @property
    def decimal(self) -> bool:
        """Is there a decimal ffx, so that encrypted integers are uint16?"""
        return any(step.get("profile") == "decimal" for step in self.scheme["steps"])

    @property
    def quantises(self) -> bool:
        """Does a step work on integers alone, so that floats become integers?"""
        return any(step["kind"] == "ffx" or step.get("cells") == "nibble" for step in self.scheme["steps"])


def scheme_of(block_size: int, channels: int, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"version": 2, "block_size": block_size, "channels": channels, "steps": list(steps)}


def step(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **fields}


WHOLE = {"period": "image"}
# Small enough for every back end at every instruction-set level; never square, mostly odd numbers of blocks.
NOTABLE: dict[str, Case] = {
    "version 1": Case(scheme_of(4, 3, step("shuffle"), step("np"), step("ffx")), (2, 3, 12, 20)),
    "LE": Case(scheme_of(4, 3, step("np", cells="nibble"), step("shuffle", cells="nibble")), (2, 3, 12, 20)),
    "ELE": Case(
        scheme_of(
            4,
            3,
            step("np", cells="nibble", **WHOLE),
            step("shuffle", cells="nibble", **WHOLE),
            step("scramble", **WHOLE),
        ),
        (2, 3, 12, 20),
    ),
    "ETC": Case(
        scheme_of(
            8,
            3,
            step("scramble", **WHOLE),
            step("rotate", **WHOLE),
            step("np", unit="block", **WHOLE),
            step("colour", **WHOLE),
        ),
        (2, 3, 24, 40),
    ),
    "PE": Case(scheme_of(1, 3, step("np", **WHOLE)), (2, 3, 9, 14)),
    "PE, colours": Case(
        scheme_of(1, 3, step("np", **WHOLE), step("colour", unit="pixel", **WHOLE)), (2, 3, 9, 14)
    ),
    "VIT": Case(scheme_of(4, 3, step("scramble", **WHOLE), step("shuffle"), step("np")), (2, 3, 12, 20)),
    "VIT_ETC": Case(
        scheme_of(
            2,
            3,
            step("scramble", period=4),
            step("rotate", period=4),
            step("np", unit="block", period=4),
            step("colour", period=4),
            step("scramble", block_size=4, **WHOLE),
        ),
        (2, 3, 12, 20),
    ),
    "a longer period, grey": Case(scheme_of(4, 1, step("ffx", period=8), step("rotate")), (2, 1, 16, 24)),
    "four channels": Case(
        scheme_of(2, 4, step("colour", unit="pixel", **WHOLE), step("shuffle", block_size=6)), (2, 4, 12, 18)
    ),
    "decimal, moved": Case(
        scheme_of(
            2,
            3,
            step("np", period=4),
            step("ffx", profile="decimal", period=6),
            step("colour", unit="pixel", **WHOLE),
            step("scramble", **WHOLE),
            step("rotate", block_size=12),
        ),
        (2, 3, 12, 24),
    ),
    "fixed positions": Case(
        scheme_of(
            4,
            3,
            step("scramble", fixed=9, **WHOLE),
            step("shuffle", fixed=30),
            step("shuffle", fixed=90, cells="nibble", period=8),
            step("scramble", block_size=2, period=4, fixed=1),
        ),
        (2, 3, 16, 24),
    ),
    "a key for each image": Case(
        scheme_of(4, 3, step("shuffle"), step("np"), step("ffx")), (3, 3, 12, 20), ids=[7, "a", b"\x00\xff"]
    ),
    "ELE, a key for each image": Case(
        scheme_of(4, 3, step("np", cells="nibble", **WHOLE), step("scramble", **WHOLE)),
        (3, 3, 12, 20),
        ids=["a", "b", "a"],
    ),
}


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def sometimes_left_out(draw: st.DrawFn, fields: dict[str, Any], name: str, value: Any, default: Any) -> None:
    """Put a field into a JSON object; at its default only sometimes."""
    if value != default or draw(st.booleans()):
        fields[name] = value


@st.composite
def steps(
    draw: st.DrawFn, kind: str, block_size: int, shape: tuple[int, ...], decimal: bool
) -> dict[str, Any]:
    """A step of a kind for images of `shape`, [N, C, H, W]; `block_size` is the scheme's.

    decimal: this ffx is decimal; of another kind: the step follows a decimal ffx, so it moves whole values.
    """
    side = math.gcd(*shape[2:])
    found: dict[str, Any] = {"kind": kind}
    for name, choices in CHOICES[kind].items():
        if name == "profile":
            value = "decimal" if decimal else "byte"
        elif name == "cells" and decimal:
            value = "byte"
        else:
            value = draw(st.sampled_from(choices))
        sometimes_left_out(draw, found, name, value, choices[0])
    b = draw(st.sampled_from([block_size, *divisors(side)]))
    sometimes_left_out(draw, found, "block_size", b, block_size)
    period = draw(st.sampled_from([b, "image", *(P for P in divisors(side) if P % b == 0)]))
    sometimes_left_out(draw, found, "period", period, b)
    if kind in WITH_FIXED:
        height, width = (size if period == "image" else period for size in shape[2:])
        cells = b * b * shape[1] * (2 if found.get("cells") == "nibble" else 1)
        positions = cells if kind == "shuffle" else (height // b) * (width // b)
        fixed = draw(st.sampled_from((0, 0, 1, positions // 2, positions - 2)))
        sometimes_left_out(draw, found, "fixed", fixed if 0 <= fixed <= positions - 2 else 0, 0)
    return found


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    kinds: tuple[str, ...] = KINDS,
    decimal: bool = True,
    per_image: bool = True,
    dtypes: tuple[str, ...] = DTYPES,
    max_steps: int = 5,
) -> Case:
    """Any scheme of up to `max_steps` steps of `kinds`, with images of 1 to 3 that fit it.

    decimal, per_image: whether schemes with a decimal ffx, and ids, are drawn as well.
    """
    side = draw(st.sampled_from((4, 6, 2, 12, 8, 3, 1)))
    rows, columns = draw(st.sampled_from([(1, 2), (3, 1), (2, 3), (3, 2)] + [(3, 5)] * (side <= 6)))
    height, width = side * rows, side * columns
    side = math.gcd(height, width)
    channels = draw(st.sampled_from((3, 1, 4)))
    block_size = draw(st.sampled_from(divisors(side)))
    drawn: list[dict[str, Any]] = []
    after_decimal = False
    for _ in range(draw(st.integers(1, max_steps))):
        kind = draw(st.sampled_from([kind for kind in kinds if not after_decimal or kind in AFTER_DECIMAL]))
        if kind == "ffx":
            after_decimal = decimal and draw(st.booleans())
        drawn.append(draw(steps(kind, block_size, (1, channels, height, width), after_decimal)))
        if after_decimal and not set(kinds) & set(AFTER_DECIMAL):
            break
    n = draw(st.integers(1, 3))
    identity = st.one_of(st.integers(0, 2**70), st.text(max_size=5), st.binary(max_size=5))
    ids = draw(st.lists(identity, min_size=n, max_size=n)) if per_image and draw(st.booleans()) else None
    scheme = scheme_of(block_size, channels, *drawn)
    return Case(scheme, (n, channels, height, width), draw(st.sampled_from(dtypes)), ids)
