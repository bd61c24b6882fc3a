"""Plans put together: one after the other, undone, in larger or smaller blocks, for many keys.

`compose` needs plans of one block size; `lifted` and `refined` give a plan another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from blockenc.plan.packing import BYTE_VALUES, MAX_ENTRIES, MAX_TABLES
from blockenc.plan.plan import Plan

MAX_FLIPS = 255  # a byte


def compose(first: Plan, second: Plan) -> Plan | None:
    """The plan that does `first`, then `second` (which reads what `first` wrote); None if no single plan
    does.

    Both have one key and the same block size. Where one has a grid and the other takes any image, the result
    has that grid. Raises ValueError where `second` does not take the values that `first` leaves.
    """
    gathers = not second.flips.any() and not second.quantises
    if first.out_values != second.in_values and not gathers and (first.flips.any() or first.quantises):
        raise ValueError(
            f"plan: the first part leaves values below {first.out_values}, the second takes values "
            f"below {second.in_values}"
        )
    if second.nibbles:
        # Nibbles are made of the integers read: a table cannot come before, nor floats flipped as published.
        if first.quantises and not first.nibbles:
            return None
        if not first.nibbles:
            if not second.nearest and first.flips.any():
                return None
            first = _in_nibbles(first, second)
        elif len(first.tables):
            return None
    elif first.nibbles:
        # What follows nibbles works on the integers they make: flips of both halves, and then tables.
        second = _in_nibbles(second, first)
    first, second = _on_one_grid(first, second)
    first, second, a, b = _pairs(first, second)
    source = np.take_along_axis(first.source[a], second.source[b], axis=1)
    flips = np.take_along_axis(first.flips[a], second.source[b], axis=1)
    positions = second.source[b][:, : first.length] % first.length
    table_of = np.take_along_axis(first.table_of[a], positions, axis=1)
    moved: dict[str, Any] = {"source": source, "flips": flips, "table_of": table_of}
    if gathers:  # any value domain goes
        return distinct(dataclasses.replace(first, **moved))
    if first.nibbles or not first.quantises:  # flips add up until there is a table
        total = flips.astype(np.int64) + second.flips[b]
        if total.max(initial=0) > MAX_FLIPS:
            raise ValueError(f"steps: a value is negated more than {MAX_FLIPS} times")
        if not len(first.tables):
            moved = {**moved, "flips": total.astype(np.uint8), "table_of": second.table_of[b]}
            return distinct(
                dataclasses.replace(second, **moved, quantises=first.quantises or second.quantises)
            )
    odd = second.flips[b][:, : first.length] % 2
    chains = (table_of.astype(np.int64) * 2 + odd) * (len(second.tables) + 1) + second.table_of[b]
    found, row_of = np.unique(chains, return_inverse=True)
    rows = []
    for chain in found.tolist():
        rest, table = divmod(chain, len(second.tables) + 1)
        rows.append(second.substitution(rest % 2, table)[first.substitution(0, rest // 2)])
    out: dict[str, Any] = {
        "out_values": second.out_values,
        "out_scale": second.out_scale if second.quantises else first.out_scale,
    }
    return distinct(
        _with_rows(dataclasses.replace(first, **moved, **out), rows, row_of.reshape(chains.shape))
    )


def invert(plan: Plan) -> Plan:
    """The plan that undoes `plan`, which has one key. Values that `plan` never gives become 255."""
    inverse = np.argsort(plan.source, axis=1).astype(np.int32)
    moves, variant = plan.moves, plan.variant
    if plan.moves is not None and plan.variant is not None:
        moves = np.argsort(plan.moves, axis=1).astype(np.int32)
        variant = np.take_along_axis(plan.variant, moves, axis=1)
    back = dataclasses.replace(
        plan,
        source=inverse,
        flips=np.take_along_axis(plan.flips, inverse, axis=1),
        moves=moves,
        variant=variant,
        in_values=plan.out_values,
        out_values=plan.in_values,
        in_scale=plan.out_scale,
        out_scale=plan.in_scale,
        nearest=plan.nearest or plan.quantises,
        mean=None,
        std=None,
    )
    if not len(plan.tables):
        return back
    if plan.nibbles:
        raise ValueError("plan: what moves nibbles and then substitutes bytes has no inverse of one pass")
    chains = np.take_along_axis(plan.table_of.astype(np.int64) * 2 + plan.flips % 2, inverse, axis=1)
    found, row_of = np.unique(chains, return_inverse=True)
    rows = []
    for chain in found.tolist():
        table, flip = divmod(chain, 2)
        row = np.full(plan.out_values, BYTE_VALUES - 1, np.uint16)
        if table == 0:  # not enciphered: the value itself, flipped back; what is above 255 is clamped
            row[:BYTE_VALUES] = plan.substitution(flip, 0)
            row[BYTE_VALUES:] = row[BYTE_VALUES - 1]
        else:
            row[plan.substitution(flip, table)] = np.arange(plan.in_values, dtype=np.uint16)
        rows.append(row)
    back = dataclasses.replace(back, flips=np.zeros_like(plan.flips))
    return _with_rows(back, rows, row_of.reshape(chains.shape))


def lifted(plan: Plan, block_size: int, rows: int, columns: int) -> Plan:
    """The same transform of images of rows x columns larger blocks, as a plan of that block size.

    No block may leave the larger block that it lies in. A single larger block stands for all images: then the
    result has no grid.
    """
    across = block_size // plan.block_size
    shape = (rows, across, columns, across)

    def grouped(of_block: np.ndarray) -> np.ndarray:
        return of_block.reshape(shape).transpose(0, 2, 1, 3).reshape(rows * columns, across * across)

    blocks = rows * columns * across * across
    place = np.empty(blocks, np.int64)  # of each small block in its large one
    place[grouped(np.arange(blocks))] = np.arange(across * across)
    if plan.moves is None or plan.variant is None:
        inside = grouped(place)
        variant = np.zeros_like(inside)
    else:
        inside, variant = place[grouped(plan.moves[0])], grouped(plan.variant[0])
    found, variant_of = np.unique(np.concatenate([inside, variant], axis=1), axis=0, return_inverse=True)
    inside, variant = np.split(found, 2, axis=1)
    _check_entries(len(found) * across * across * plan.source.shape[1])
    cell = _cells_of_small_blocks(plan.block_size, block_size, plan.channels, plan.nibbles)
    source = np.empty((len(found), cell.size), np.int32)
    flips = np.empty(source.shape, np.uint8)
    table_of = np.empty((len(found), across * across * plan.length), np.uint16)
    source[:, cell] = np.take_along_axis(cell[inside], plan.source[variant].astype(np.int64), axis=2)
    flips[:, cell] = plan.flips[variant]
    table_of[:, cell[:, : plan.length]] = plan.table_of[variant]
    uniform = rows * columns == 1
    return dataclasses.replace(
        plan,
        source=source,
        flips=flips,
        table_of=table_of,
        block_size=block_size,
        grid=None if uniform else (rows, columns),
        moves=None if uniform else np.arange(rows * columns, dtype=np.int32)[None],
        variant=None if uniform else variant_of.reshape(1, -1).astype(np.int32),
    )


def refined(plan: Plan, block_size: int, rows: int, columns: int) -> Plan:
    """The same transform of images of rows x columns smaller blocks, as a plan of that block size.

    Every smaller block of the result must be made of the values of a single one.
    """
    across = plan.block_size // block_size
    cell = _cells_of_small_blocks(block_size, plan.block_size, plan.channels, plan.nibbles)
    length = block_size * block_size * plan.channels
    owner = np.empty(plan.source.shape[1], np.int64)
    local = np.empty_like(owner)
    owner[cell] = np.arange(len(cell))[:, None]
    local[cell] = np.arange(cell.shape[1])
    sources = plan.source[:, cell]  # [variant, small block, cell]
    comes_from = owner[sources]
    if (comes_from != comes_from[:, :, :1]).any():
        raise ValueError(f"plan: values change places between blocks of {block_size} x {block_size}")
    result = dataclasses.replace(
        plan,
        block_size=block_size,
        source=local[sources].reshape(-1, cell.shape[1]).astype(np.int32),
        flips=plan.flips[:, cell].reshape(-1, cell.shape[1]),
        table_of=plan.table_of[:, cell[:, :length]].reshape(-1, length),
    )
    row, column = np.divmod(np.arange(rows * columns), columns)
    large = row // across * (columns // across) + column // across  # the larger block of each smaller one
    inside = row % across * across + column % across
    moves, variant = large, np.zeros_like(large)
    if plan.moves is not None and plan.variant is not None:
        moves, variant = plan.moves[0][large], plan.variant[0][large]
    from_inside = comes_from[variant, inside, 0]
    from_row = moves // (columns // across) * across + from_inside // across
    from_column = moves % (columns // across) * across + from_inside % across
    return distinct(
        dataclasses.replace(
            result,
            grid=(rows, columns),
            moves=(from_row * columns + from_column)[None].astype(np.int32),
            variant=(variant * across * across + inside)[None].astype(np.int32),
        )
    )


def stacked(plans: Sequence[Plan], key_of_image: np.ndarray) -> Plan:
    """The plan of a batch in which image n is transformed by plans[key_of_image[n]]; they differ in keys
    only."""
    first = plans[0]
    starts = np.cumsum([0, *(plan.variants for plan in plans)])
    table_starts = np.cumsum([0, *(len(plan.tables) for plan in plans)])
    if table_starts[-1] > MAX_TABLES:
        raise ValueError(
            f"ids: {len(plans)} images with keys of their own need {table_starts[-1]} substitution tables, "
            f"more than the {MAX_TABLES} of one call; encrypt fewer images at once"
        )
    _check_entries(int(starts[-1]) * first.source.shape[1])
    table_of = [np.where(p.table_of, p.table_of + s, 0) for p, s in zip(plans, table_starts.tolist())]
    maps: dict[str, Any] = {}
    if first.grid is not None:
        maps["moves"] = np.concatenate([plan.moves for plan in plans if plan.moves is not None])
        of_key = [plan.variant + s for plan, s in zip(plans, starts) if plan.variant is not None]
        maps["variant"] = np.concatenate(of_key).astype(np.int32)
    return dataclasses.replace(
        first,
        source=np.concatenate([plan.source for plan in plans]),
        flips=np.concatenate([plan.flips for plan in plans]),
        table_of=np.concatenate(table_of).astype(np.uint16),
        tables=np.concatenate([plan.tables for plan in plans]),
        key_of_image=key_of_image.astype(np.int32),
        **maps,
    )


def _check_entries(entries: int) -> None:
    if entries > MAX_ENTRIES:
        raise ValueError(f"steps: a plan of {entries} entries is more than the {MAX_ENTRIES} supported")


def _in_nibbles(plan: Plan, nibbles: Plan) -> Plan:
    """A plan that moves whole values, as one of nibbles with the value domain of `nibbles`."""
    low = plan.source
    return dataclasses.replace(
        plan,
        source=np.concatenate([low, low + plan.length], axis=1).astype(np.int32),
        flips=np.concatenate([plan.flips, plan.flips], axis=1),
        quantises=True,
        nearest=nibbles.nearest,
    )


def _on_one_grid(first: Plan, second: Plan) -> tuple[Plan, Plan]:
    """Both with the grid that one of them has."""
    if first.grid == second.grid:
        return first, second
    if first.grid is not None and second.grid is not None:
        raise ValueError(f"plan: expected plans of one grid, got {first.grid} and {second.grid}")
    if first.grid is None:
        return _everywhere(first, second.grid), second
    return first, _everywhere(second, first.grid)


def _everywhere(plan: Plan, grid: tuple[int, int] | None) -> Plan:
    """A plan that treats every block alike, on a grid."""
    assert grid is not None
    blocks = grid[0] * grid[1]
    still = np.arange(blocks, dtype=np.int32)[None]
    return dataclasses.replace(plan, grid=grid, moves=still, variant=np.zeros((1, blocks), np.int32))


def _pairs(first: Plan, second: Plan) -> tuple[Plan, Plan, np.ndarray, np.ndarray]:
    """The plans with the maps of blocks of the whole, and the pairs of their variants that occur."""
    if first.moves is None or first.variant is None or second.moves is None or second.variant is None:
        return first, second, np.zeros(1, np.int64), np.zeros(1, np.int64)
    moves = first.moves[:, second.moves[0]]
    codes = first.variant[0][second.moves[0]].astype(np.int64) * second.variants + second.variant[0]
    found, variant = np.unique(codes, return_inverse=True)
    _check_entries(len(found) * first.source.shape[1])
    maps: dict[str, Any] = {"moves": moves, "variant": variant.reshape(1, -1).astype(np.int32)}
    first, second = dataclasses.replace(first, **maps), dataclasses.replace(second, **maps)
    return first, second, found // second.variants, found % second.variants


def distinct(plan: Plan) -> Plan:
    """The same with each variant once."""
    if plan.variant is None or plan.variants == 1:
        return plan
    whole = np.concatenate(
        [part.view(np.uint8).reshape(plan.variants, -1) for part in (plan.source, plan.flips, plan.table_of)],
        axis=1,
    )
    rows = np.ascontiguousarray(whole).view(f"V{whole.shape[1]}").ravel()
    _, first, number = np.unique(rows, return_index=True, return_inverse=True)
    if len(first) == plan.variants:
        return plan
    return dataclasses.replace(
        plan,
        source=plan.source[first],
        flips=plan.flips[first],
        table_of=plan.table_of[first],
        variant=number.reshape(-1).astype(np.int32)[plan.variant],
    )


def _cells_of_small_blocks(small: int, large: int, channels: int, nibbles: bool) -> np.ndarray:
    """int64 [small block, cell]: where the cells of blocks of a small size lie in a block of a large one."""
    across = large // small
    values = np.arange(large * large * channels).reshape(across, small, across, small, channels)
    cells = values.transpose(0, 2, 1, 3, 4).reshape(across * across, -1)
    return np.concatenate([cells, cells + values.size], axis=1) if nibbles else cells


def _with_rows(plan: Plan, rows: list[np.ndarray], row_of: np.ndarray) -> Plan:
    """`plan` substituting by `rows`, where a position uses rows[row_of]; identities need no table."""
    values = np.arange(plan.in_values)
    table_numbers: dict[bytes, int] = {np.minimum(values, plan.out_values - 1).astype(np.uint16).tobytes(): 0}
    tables: list[np.ndarray] = []
    numbers = np.zeros(len(rows), np.int64)
    for n, row in enumerate(rows):
        data = row.astype(np.uint16)
        number = table_numbers.setdefault(data.tobytes(), len(table_numbers))
        if number > len(tables):
            tables.append(data)
        numbers[n] = number
    if len(tables) > MAX_TABLES:
        raise ValueError(f"steps: this order needs {len(tables)} substitution tables, more than {MAX_TABLES}")
    return dataclasses.replace(
        plan,
        table_of=numbers[row_of].astype(np.uint16),
        tables=np.array(tables, np.uint16).reshape(len(tables), plan.in_values),
    )
