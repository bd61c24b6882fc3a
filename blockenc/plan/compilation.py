"""From a scheme and a key to plans: the secrets are drawn, each step becomes a plan, and plans are joined.

What a single plan cannot express becomes a list of plans, applied one after the other. Where it is cut
depends on the scheme alone, never on a key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from blockenc.hidden import hide, reveal
from blockenc.keys import AnyKey, ExplicitKey, as_key
from blockenc.plan.algebra import check_tables, compose, distinct, invert, lifted, refined
from blockenc.plan.packing import BYTE_VALUES, DECIMAL_VALUES
from blockenc.plan.plan import Plan
from blockenc.scheme import Scheme
from blockenc.steps import KINDS, Effect, Period, Step

# Periods up to this many pixels may become blocks, which are treated alike in images of any size.
LARGEST_LIFTED_PERIOD = 16


class Compiler:
    """The secrets of a scheme under a key, drawn once for each size of images, and the plans made of them.

    images: the ids of images that have keys of their own; the plans then have a key for each of these. None:
        all images have the same key.
    linear: plans of the moves and the negatives, 1 - v, alone, without what tables make of values: what
        gradients go through. Of schemes that move whole values only.
    """

    def __init__(
        self, scheme: Scheme, key: AnyKey, images: Sequence[bytes] | None = None, *, linear: bool = False
    ) -> None:
        key = hide(key)
        self._linear = linear
        self._scheme, self._key = scheme, as_key(key)
        self._images = [None] if images is None else list(images)
        check_key(scheme, self._key)

    def plans(
        self, height: int, width: int, directions: Sequence[bool] = (False, True)
    ) -> dict[bool, list[Plan]]:
        """The passes over images of that size: {False: of encryption, True: of decryption}.

        Raises ValueError where secrets do not fit, or a plan would be too large.
        """
        try:
            return self._plans(height, width, directions)
        except ValueError as error:  # without the frames that it came through, whose variables are secrets
            raise ValueError(str(error)) from None

    def _plans(self, height: int, width: int, directions: Sequence[bool]) -> dict[bool, list[Plan]]:
        scheme = self._scheme
        periods = scheme.periods(height, width)
        infos = scheme.infos(height, width, self._images)
        steps: list[Plan] = []
        for n, (step, period) in enumerate(zip(scheme.bound_steps, periods)):
            effect = step.effect(reveal(self._secrets(n, step, infos[n], period)), period)
            if self._linear:
                effect = effect._replace(selected=None, tables=None, decimal=False)
            before = steps[-1] if steps else None
            nearest = scheme.ffx != "decimal" and not self._linear
            steps.append(_plan_of(effect, period, len(self._images), before, nearest))
        found = {}
        for decrypt in directions:
            order = range(len(steps))[:: -1 if decrypt else 1]
            parts = [invert(steps[n]) if decrypt else steps[n] for n in order]
            found[decrypt] = _joined([scheme.bound_steps[n] for n in order], parts, height, width)
        return found

    def _secrets(self, n: int, step: Step, infos: Sequence[str], period: Period) -> Any:
        if isinstance(self._key, ExplicitKey):
            given = self._key.secret(n, len(self._scheme.bound_steps))
            try:
                return hide(step.checked(reveal(given), period))
            except ValueError as error:
                raise ValueError(f"key: secrets[{n}], of the step {step.kind}: {error}") from None
        return hide(step.draw(self._key.member(step.kind), infos, period))


def check_key(scheme: Scheme, key: AnyKey) -> None:
    """Raises ValueError where the key has no secret for a step of the scheme, or one for no kind of step."""
    key = as_key(hide(key))
    if isinstance(key, ExplicitKey):
        key.secret(0, len(scheme.bound_steps))
        return
    unknown = sorted(set(key.kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"key: expected members called {', '.join(KINDS)} or all, got {', '.join(unknown)}")
    for kind in scheme.kinds:
        key.member(kind)


def compile_plan(scheme: Scheme, key: AnyKey, *, decrypt: bool = False) -> Plan:
    """The plan of a scheme that is a single one for images of any size, such as every scheme of version 1.

    Raises ValueError for other schemes.
    """
    key = hide(key)
    if scheme.depends_on_size:
        raise ValueError(
            "scheme: a step has the whole image as its period, so that its plan depends on its size"
        )
    plans = Compiler(scheme, key).plans(scheme.side, scheme.side)[decrypt]
    if len(plans) != 1 or plans[0].grid is not None:
        raise ValueError("scheme: expected one that a single plan for images of any size expresses")
    return plans[0]


def _plan_of(effect: Effect, period: Period, keys: int, before: Plan | None, nearest: bool) -> Plan:
    """The plan of a step alone, on the blocks of a period."""
    length, blocks = period.length, period.blocks
    given = [part for part in (effect.source, effect.flips, effect.selected) if part is not None]
    variants = max((len(part) for part in given), default=1)
    cells = max((part.shape[1] for part in given), default=length)
    variant = effect.variant
    if variant is None:
        variant = np.arange(variants).reshape(keys, -1) if variants > 1 else np.zeros((keys, 1))
    # After a decimal ffx values go up to 999, and the steps that may follow only move them.
    decimal = before is not None and before.out_values == DECIMAL_VALUES
    scale = before.out_scale if before is not None and decimal else 255
    values = DECIMAL_VALUES if decimal else BYTE_VALUES
    tables = np.zeros((0, values), np.uint16) if effect.tables is None else effect.tables.astype(np.uint16)
    out_values, out_scale = values, scale
    if effect.decimal:
        out_values, out_scale = DECIMAL_VALUES, int(tables.max())
    check_tables(len(tables))
    number = 1 + np.repeat(np.arange(len(tables)), blocks)[:, None]  # of the table of each variant's key

    def whole(part: np.ndarray | None, columns: int, dtype: Any) -> np.ndarray:
        return np.zeros((variants, columns), dtype) if part is None else part.astype(dtype)

    source = np.tile(np.arange(cells), (variants, 1)) if effect.source is None else effect.source
    moves = np.arange(blocks) if effect.moves is None else effect.moves
    table_of = None if effect.selected is None else effect.selected * number
    plan = Plan(
        block_size=period.block_size,
        channels=period.channels,
        source=source.astype(np.int32),
        flips=whole(effect.flips, cells, np.uint8),
        table_of=whole(table_of, length, np.uint16),
        tables=tables,
        grid=(period.rows, period.columns),
        moves=np.broadcast_to(moves, (keys, blocks)).astype(np.int32),
        variant=np.broadcast_to(variant, (keys, blocks)).astype(np.int32),
        in_values=values,
        out_values=out_values,
        quantises=effect.tables is not None or cells != length,
        nearest=nearest,
        in_scale=scale,
        out_scale=out_scale,
    )
    return distinct(plan)


def _joined(steps: Sequence[Step], plans: Sequence[Plan], height: int, width: int) -> list[Plan]:
    """The plans of single steps, each on its period, as passes over images of that size."""
    passes = []
    for block_size, first, last in _segments(steps):
        parts = [_at_block_size(steps[n], plans[n], block_size, height, width) for n in range(first, last)]
        joined = parts[0]
        for part in parts[1:]:
            more = compose(joined, part)
            if more is None:
                passes.append(joined)
            joined = part if more is None else more
        passes.append(joined)
    if any(plan.quantises and plan.nearest for plan in passes):
        # Floats become the nearest integers before anything else is done, in the first pass.
        passes = [dataclasses.replace(plan, quantises=True, nearest=True) for plan in passes]
    return passes


def _segments(steps: Sequence[Step]) -> list[tuple[int, int, int]]:
    """Runs of steps that are expressed in blocks of one size: (block size, first step, one past the last)."""
    segments: list[tuple[int, int, int]] = []
    first = 0
    while first < len(steps):
        best, last = 0, first
        sizes = set()
        for end in range(first + 1, len(steps) + 1):
            step = steps[end - 1]
            sizes |= {size for size in (step.block_size, step.period) if isinstance(size, int)}
            possible = [
                size
                for size in sizes
                if all(_goes(steps[n], size) for n in range(first, end))
                and (size <= LARGEST_LIFTED_PERIOD or size in {step.block_size for step in steps[first:end]})
            ]
            if not possible:
                break
            best, last = max(possible), end
        segments.append((best, first, last))
        first = last
    return segments


def _goes(step: Step, block_size: int) -> bool:
    """Whether a step can be expressed in blocks of that size."""
    b, period = step.block_size, step.period
    assert b is not None
    if isinstance(period, int) and block_size % period == 0:
        return True
    if block_size % b == 0:
        return block_size == b or not step.moves_blocks
    return b % block_size == 0 and not step.mixes_values


def _at_block_size(step: Step, plan: Plan, block_size: int, height: int, width: int) -> Plan:
    """The plan of a step on its period, as one of blocks of that size over an image."""
    b, period = plan.block_size, step.period
    rows, columns = plan.grid or (1, 1)
    if isinstance(period, int) and block_size % period == 0:
        across = block_size // b
        return lifted(_tiled(plan, across // rows, across // columns), block_size, None)
    if isinstance(period, int):
        plan = _tiled(plan, height // period, width // period)
    rows, columns = height // block_size, width // block_size
    if block_size == b:
        return plan
    if block_size > b:
        return lifted(plan, block_size, (rows, columns))
    return refined(plan, block_size, rows, columns)


def _tiled(plan: Plan, down: int, across: int) -> Plan:
    """A plan on the grid of a period, on a grid of so many periods."""
    if down == across == 1:
        return plan
    assert plan.grid is not None
    assert plan.moves is not None
    assert plan.variant is not None
    rows, columns = plan.grid
    row, column = np.divmod(plan.moves.reshape(-1, rows, columns), columns)
    start_row = np.repeat(np.arange(down) * rows, rows)[:, None]
    start_column = np.repeat(np.arange(across) * columns, columns)[None, :]
    moves = (np.tile(row, (1, down, across)) + start_row) * (columns * across)
    moves = moves + np.tile(column, (1, down, across)) + start_column
    variant = np.tile(plan.variant.reshape(-1, rows, columns), (1, down, across))
    return dataclasses.replace(
        plan,
        grid=(rows * down, columns * across),
        moves=moves.reshape(plan.keys, -1).astype(np.int32),
        variant=variant.reshape(plan.keys, -1).astype(np.int32),
    )
