"""The kinds of steps: one file a kind, one row of `KINDS` each.

A file holds all of its kind: the name, the parameters, how the secret is drawn from a keystream, and what the
step does to the blocks of a period. Adding a kind is adding a file and a row, beside its definition in
docs/scheme.md and in the oracle (blockenc/reference/version2.py).
"""

from blockenc.steps.base import IMAGE, Effect, Period, Step
from blockenc.steps.colour import Colour
from blockenc.steps.ffx import Ffx
from blockenc.steps.np import Np
from blockenc.steps.rotate import Rotate
from blockenc.steps.scramble import Scramble
from blockenc.steps.shuffle import Shuffle

KINDS: dict[str, type[Step]] = {
    step.kind: step
    for step in (
        Shuffle,
        Np,
        Ffx,
        Colour,
        Rotate,
        Scramble,
    )
}

__all__ = [
    "IMAGE",
    "KINDS",
    "Colour",
    "Effect",
    "Ffx",
    "Np",
    "Period",
    "Rotate",
    "Scramble",
    "Shuffle",
    "Step",
]
