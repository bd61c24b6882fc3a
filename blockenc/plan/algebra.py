"""Plans put together: one after the other, undone, in larger or smaller blocks.

`compose` needs plans of one block size; `lifted` and `refined` give a plan another one. Plans that are put
together have the same number of keys K, and what is said of a plan holds for each of its keys.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from blockenc.plan.packing import BYTE_VALUES, MAX_ENTRIES, MAX_TABLES
from blockenc.plan.plan import Plan

MAX_FLIPS = 255  # a byte


def compose(first: Plan, second: Plan) -> Plan | None:
    """The plan that does `first`, then `second` (which reads what `first` wrote); None if no single plan
    does.

    Both have the same block size. Where one has a grid and the other takes any image, the result
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
    rest, second_table = np.divmod(found, len(second.tables) + 1)
    first_table, flip = np.divmod(rest, 2)
    between = first.substitution(np.zeros_like(flip), first_table)
    rows = np.take_along_axis(second.substitution(flip, second_table), between, axis=1)
    out: dict[str, Any] = {
        "out_values": second.out_values,
        "out_scale": second.out_scale if second.quantises else first.out_scale,
    }
    return distinct(
        _with_rows(dataclasses.replace(first, **moved, **out), rows, row_of.reshape(chains.shape))
    )


def invert(plan: Plan) -> Plan:
    """The plan that undoes `plan`. Values that `plan` never gives become 255."""
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
    table, flip = np.divmod(found, 2)
    rows = np.full((len(found), plan.out_values), BYTE_VALUES - 1)
    np.put_along_axis(rows, plan.substitution(flip, table), np.arange(plan.in_values)[None], axis=1)
    plain = table == 0  # not enciphered: values above 255 become what 255 becomes
    rows[plain, BYTE_VALUES:] = rows[plain, BYTE_VALUES - 1 : BYTE_VALUES]
    back = dataclasses.replace(back, flips=np.zeros_like(plan.flips))
    return _with_rows(back, rows, row_of.reshape(chains.shape))


def lifted(plan: Plan, block_size: int, grid: tuple[int, int] | None) -> Plan:
    """The same transform as a plan of larger blocks, none of which a smaller block may leave.

    grid: rows and columns of the larger blocks. None: the plan is that of a single one, which stands for all
        of an image of any size; then the result has no grid.
    """
    across = block_size // plan.block_size
    # Nothing is put together: a short way, which keys of thousands of images take.
    if across == 1 and grid is None and plan.variant is not None:
        of_key = plan.variant[:, 0]
        parts = {name: getattr(plan, name)[of_key] for name in ("source", "flips", "table_of")}
        return dataclasses.replace(plan, **parts, grid=None, moves=None, variant=None)
    rows, columns = grid or (1, 1)
    shape = (-1, rows, across, columns, across)

    def grouped(of_block: np.ndarray) -> np.ndarray:
        return of_block.reshape(shape).transpose(0, 1, 3, 2, 4).reshape(-1, across * across)

    blocks = rows * columns * across * across
    place = np.empty(blocks, np.int64)  # of each small block in its large one
    place[grouped(np.arange(blocks))] = np.arange(across * across)
    moves, variant = _maps(plan, (rows * across, columns * across))
    found = np.concatenate([place[grouped(moves)], grouped(variant)], axis=1)
    if grid is not None:
        found, variant_of = np.unique(found, axis=0, return_inverse=True)
    inside, variant = np.split(found, 2, axis=1)
    _check_entries(len(found) * across * across * plan.source.shape[1])
    cell = _cells_of_small_blocks(plan.block_size, block_size, plan.channels, plan.nibbles)
    source = np.empty((len(found), cell.size), np.int32)
    flips = np.empty(source.shape, np.uint8)
    table_of = np.empty((len(found), across * across * plan.length), np.uint16)
    source[:, cell] = np.take_along_axis(cell[inside], plan.source[variant].astype(np.int64), axis=2)
    flips[:, cell] = plan.flips[variant]
    table_of[:, cell[:, : plan.length]] = plan.table_of[variant]
    if grid is None:
        maps: dict[str, Any] = {"grid": None, "moves": None, "variant": None}
    else:
        still = np.broadcast_to(np.arange(rows * columns, dtype=np.int32), (plan.keys, rows * columns))
        variant_of = variant_of.reshape(plan.keys, -1).astype(np.int32)
        maps = {"grid": grid, "moves": still, "variant": variant_of}
    return dataclasses.replace(
        plan,
        source=source,
        flips=flips,
        table_of=table_of,
        block_size=block_size,
        **maps,
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
    moves, variant = (of_block[:, large] for of_block in _maps(plan, (rows // across, columns // across)))
    from_inside = comes_from[variant, inside, 0]
    from_row = moves // (columns // across) * across + from_inside // across
    from_column = moves % (columns // across) * across + from_inside % across
    return distinct(
        dataclasses.replace(
            result,
            grid=(rows, columns),
            moves=(from_row * columns + from_column).astype(np.int32),
            variant=(variant * across * across + inside).astype(np.int32),
        )
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
    """A plan that treats every block of an image alike, on a grid."""
    assert grid is not None
    moves, variant = _maps(plan, grid)
    return dataclasses.replace(plan, grid=grid, moves=moves, variant=variant)


def _maps(plan: Plan, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """moves and variant, also of a plan that takes images of any size."""
    moves, variant, _ = plan.maps(grid[0] * grid[1], 0)
    return moves, variant


def _pairs(first: Plan, second: Plan) -> tuple[Plan, Plan, np.ndarray, np.ndarray]:
    """The plans with the maps of blocks of the whole, and the pairs of their variants that occur."""
    if first.moves is None or first.variant is None or second.moves is None or second.variant is None:
        of_key = np.arange(first.keys)
        return first, second, of_key, of_key
    moves = np.take_along_axis(first.moves, second.moves, axis=1)
    moved = np.take_along_axis(first.variant, second.moves, axis=1).astype(np.int64)
    codes = moved * second.variants + second.variant
    found, variant = np.unique(codes, return_inverse=True)
    _check_entries(len(found) * first.source.shape[1])
    maps: dict[str, Any] = {"moves": moves, "variant": variant.reshape(codes.shape).astype(np.int32)}
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
    first, number = _first_and_number(whole)
    if len(first) == plan.variants:
        return plan
    return dataclasses.replace(
        plan,
        source=plan.source[first],
        flips=plan.flips[first],
        table_of=plan.table_of[first],
        variant=number.astype(np.int32)[plan.variant],
    )


def _cells_of_small_blocks(small: int, large: int, channels: int, nibbles: bool) -> np.ndarray:
    """int64 [small block, cell]: where the cells of blocks of a small size lie in a block of a large one."""
    across = large // small
    values = np.arange(large * large * channels).reshape(across, small, across, small, channels)
    cells = values.transpose(0, 2, 1, 3, 4).reshape(across * across, -1)
    return np.concatenate([cells, cells + values.size], axis=1) if nibbles else cells


def _with_rows(plan: Plan, rows: np.ndarray, row_of: np.ndarray) -> Plan:
    """`plan` substituting by `rows`, where a position uses rows[row_of]; identities need no table."""
    identity = np.minimum(np.arange(plan.in_values), plan.out_values - 1)
    whole = np.concatenate([identity[None], rows]).astype(np.uint16)
    first, number = _first_and_number(whole)
    check_tables(len(first) - 1)
    return dataclasses.replace(plan, table_of=number[1:][row_of].astype(np.uint16), tables=whole[first[1:]])


def check_tables(tables: int) -> None:
    if tables > MAX_TABLES:
        raise ValueError(
            f"steps: {tables} substitution tables are needed, more than the {MAX_TABLES} of one call; "
            "encrypt fewer images with keys of their own at once"
        )


def _first_and_number(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows, of which some are alike: where each stands first, in that order, and the number of each."""
    whole = np.ascontiguousarray(rows).view(np.uint8)
    if _differ(whole):
        return np.arange(len(whole)), np.arange(len(whole))
    _, first, number = np.unique(
        whole.view(f"V{whole.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[number.reshape(-1)]


def _differ(rows: np.ndarray) -> bool:
    """Whether a number made of each row tells all of them apart; numbers are quicker to compare than rows.

    False says nothing: rows that differ may have the same number.
    """
    words = rows.view(np.uint64) if rows.shape[1] % 8 == 0 else rows.astype(np.uint64)
    powers = np.cumprod(np.full(words.shape[1], 0x9E3779B97F4A7C15, np.uint64))  # modulo 2^64
    return len(np.unique(words @ powers)) == len(rows)
