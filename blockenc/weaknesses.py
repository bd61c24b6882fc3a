"""Weak choices in a scheme, each with the experiment that shows it. What `Scheme.warnings` tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from blockenc.steps import IMAGE, Colour, Ffx, Np, Rotate, Scramble, Shuffle, Step

SMALL_BLOCK = 2  # pixels; up to here wrong keys leave models with more than chance
SMALL_KEY_SPACE = 128  # bits


def _kinds(steps: Sequence[Step]) -> set[type[Step]]:
    return {type(step) for step in steps if not step.is_idle}


def _idle(steps: Sequence[Step]) -> str:
    idle = [step.kind for step in steps if step.is_idle]
    return (
        f"{', '.join(idle)}: changes nothing in a period of a single block (docs/scheme.md, Steps)"
        if idle
        else ""
    )


def _pixels_alike(steps: Sequence[Step]) -> str:
    """Whether every pixel is treated like every other."""
    if all(step.period == 1 for step in steps):
        return (
            "block size 1: every pixel is treated alike, so that a picture keeps its outlines in other "
            "colours (docs/scheme.md, What it does not hide)"
        )
    return ""


def _np_alone(steps: Sequence[Step]) -> str:
    if _kinds(steps) == {Np} and all(step == Np(step.block_size, step.period) for step in steps):
        return (
            "np alone: how neighbours correlate tells the mask from encrypted images alone "
            "(docs/attacks.md, np correlations)"
        )
    return ""


def _ffx_alone(steps: Sequence[Step]) -> str:
    if _kinds(steps) == {Ffx}:
        return (
            "ffx alone: half of the values are in the clear, and frequencies tell the others from encrypted "
            "images alone (docs/attacks.md, frequency analysis)"
        )
    return ""


def _shuffle_alone(steps: Sequence[Step]) -> str:
    if _kinds(steps) == {Shuffle} and all(step.period != IMAGE for step in steps):
        return (
            "shuffle alone: blocks keep their values, so that a coarse picture shows (docs/attacks.md, block "
            "means), and models take wrong keys for right more often than chance (docs/accuracy.md)"
        )
    return ""


def _small_blocks(steps: Sequence[Step]) -> str:
    """Whether no secret reaches farther than a small block. Pixels that are alike are told of already."""
    farthest = [step.period for step in steps if not step.is_idle]
    small = all(isinstance(period, int) and period <= SMALL_BLOCK for period in farthest)
    if small and any(period != 1 for period in farthest):
        return (
            f"block size {SMALL_BLOCK}: models keep more than chance with wrong keys "
            "(docs/accuracy.md, Right key, wrong keys, no key)"
        )
    return ""


def _equal_blocks(steps: Sequence[Step]) -> str:
    if not any(step.period == IMAGE and not isinstance(step, Scramble) for step in steps):
        return (
            "equal blocks of an image stay equal, as no step but scramble has the period image: even areas "
            "and what repeats show (docs/attacks.md, equal blocks)"
        )
    return ""


def _blocks_alike(steps: Sequence[Step]) -> str:
    """Whether the values of every block of every image are treated alike, by one table at most."""
    active = [step for step in steps if not step.is_idle]
    whole = all(getattr(step, "cells", "byte") == "byte" for step in active)
    tables = [step for step in active if isinstance(step, Ffx)]
    read = len(tables) <= 1 and all(step.profile == "byte" for step in tables)
    if active and whole and read and not any(step.period in (1, IMAGE) for step in active):
        return (
            "every block is treated alike: encrypted images alone, 30 to 1,000 of them, tell the whole "
            "transform, unless each image has a key of its own (docs/attacks.md, ciphertext only)"
        )
    return ""


def _whole_blocks(steps: Sequence[Step]) -> str:
    if _kinds(steps) <= {Scramble, Rotate, Np, Colour} and not any(step.within_blocks for step in steps):
        return (
            "blocks stay whole: their edges tell which were neighbours, as in a jigsaw puzzle "
            "(docs/attacks.md, jigsaw)"
        )
    return ""


CHECKS: tuple[Callable[[Sequence[Step]], str], ...] = (
    _idle,
    _pixels_alike,
    _small_blocks,
    _np_alone,
    _ffx_alone,
    _shuffle_alone,
    _blocks_alike,
    _whole_blocks,
    _equal_blocks,
)


def weaknesses(steps: Sequence[Step], bits: float | None) -> list[str]:
    """What is weak about bound steps, in sentences. bits: of the key space, None where that is not known."""
    found = [sentence for check in CHECKS if (sentence := check(steps))]
    if bits is not None and bits < SMALL_KEY_SPACE:
        found.append(
            f"key space of {bits:.0f} bits, less than {SMALL_KEY_SPACE}: keys can be searched for, or "
            "estimated one part after the other (docs/schemes.md)"
        )
    return found
