"""Random plans, built directly: with what no scheme compiles to as well."""

from __future__ import annotations

import numpy as np
import torch

from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES, Plan
from tests import oracle

SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 2.0, -3.0, 1e-45, 1.0)
FORMS = ("uniform", "nibbles", "grid", "keys", "keys and grid", "nibbles and grid", "nibbles, keys and grid")
FORMS += ("tiles", "pixels")  # of square tiles that are turned; of values that stay in their pixels
FORMS += ("large grid", "nibbles and large grid")  # so many blocks of a variant that they are worth a group


def draw_plan(
    form: str, seed: int, *, images: int = 3, rows: int | None = None, columns: int | None = None
) -> tuple[Plan, tuple[int, int, int, int]]:
    """A random plan of this form, and a shape of images for it. rows, columns: of blocks; else drawn."""
    draw = np.random.default_rng([FORMS.index(form), seed])

    def integers(end: int, *shape: int, dtype: type = np.int32) -> np.ndarray:
        return draw.integers(0, end, shape).astype(dtype)

    sizes = {"tiles": [8, 16, 24, 32], "pixels": [1, 2]}.get(form, [1, 2, 3, 4, 5, 8])
    large = "large" in form
    if large:
        sizes = [2, 3, 4, 6, 8, 14, 16]
    m, c = int(draw.choice(sizes)), int(draw.choice([1, 2, 3, 4]))
    least, end = (6, 10) if large else (1, 3 if form == "tiles" else 6)
    drawn_rows, drawn_columns = (int(draw.integers(least, end)) for _ in range(2))
    rows = rows or drawn_rows
    columns = columns or (32 if form == "uniform" and seed % 2 else drawn_columns)  # 32: whole vectors
    length, nibbles, grid = m * m * c, "nibbles" in form, "grid" in form
    keys = int(draw.integers(1, 5)) if "keys" in form else 1
    variants = int(draw.integers(1, 3 if large else 8)) if grid else keys
    cells, tables = length * (2 if nibbles else 1), int(draw.choice([0, 0, 2] if large else [0, 1, 5, 300]))
    quantises = nibbles or bool(draw.integers(2))
    decimal_in = not nibbles and draw.random() < 0.3
    in_values = DECIMAL_VALUES if decimal_in else BYTE_VALUES
    out_values = DECIMAL_VALUES if draw.random() < 0.3 else BYTE_VALUES
    normalised = draw.random() < 0.5
    if form in ("tiles", "pixels"):
        return _plain_plan(form, draw, m, c, rows, columns, images), (images, c, rows * m, columns * m)
    plan = Plan(
        block_size=m,
        channels=c,
        source=integers(cells, variants, cells),
        flips=integers(4, variants, cells, dtype=np.uint8)
        if draw.random() < 0.8
        else np.zeros((variants, cells), np.uint8),
        table_of=integers(tables + 1, variants, length, dtype=np.uint16),
        tables=integers(out_values, tables, in_values, dtype=np.uint16),
        grid=(rows, columns) if grid else None,
        moves=integers(rows * columns, keys, rows * columns) if grid else None,
        variant=integers(variants, keys, rows * columns) if grid else None,
        key_of_image=integers(keys, images) if "keys" in form else None,
        in_values=in_values,
        out_values=out_values,
        quantises=quantises,
        nearest=bool(draw.integers(2)),
        in_scale=int(draw.choice([in_values - 1, 255, 100, 0])),
        out_scale=out_values - 1,
        mean=tuple(draw.random(c).tolist()) if normalised else None,
        std=tuple((draw.random(c) + 0.1).tolist()) if normalised else None,
    )
    return plan, (images, c, rows * m, columns * m)


def _plain_plan(
    form: str, draw: np.random.Generator, m: int, c: int, rows: int, columns: int, images: int
) -> Plan:
    """What moves bytes and negates some, as block scrambling, rotations and shuffled colours do."""
    keys, variants, blocks = int(draw.integers(1, 3)), int(draw.integers(1, 9)), rows * columns
    planar = draw.random() < 0.7
    pixels = np.arange(m * m * c).reshape(m, m, c)
    sources = []
    for _ in range(variants):
        if form == "tiles":
            planes = pixels.transpose(2, 0, 1) if planar else pixels.reshape(1, m, m * c)
            turned = _turned_tiles(draw, planes, 16 if m % 16 == 0 else 8)
            source = turned.transpose(1, 2, 0) if planar else turned
        elif planar:
            source = np.take_along_axis(pixels, draw.integers(0, c, pixels.shape), axis=2)
        else:
            source = pixels
        sources.append(source.ravel())
    flips = draw.integers(0, 4, (variants, m * m * c))
    flips[::2] = draw.integers(0, 2, (len(flips[::2]), 1))
    still = draw.random() < 0.3 or form == "pixels"
    still_blocks = np.tile(np.arange(blocks), (keys, 1))
    return Plan(
        block_size=m,
        channels=c,
        source=np.stack(sources).astype(np.int32),
        flips=flips.astype(np.uint8),
        table_of=np.zeros((variants, m * m * c), np.uint16),
        tables=np.zeros((0, BYTE_VALUES), np.uint16),
        grid=(rows, columns),
        moves=(still_blocks if still else draw.integers(0, blocks, (keys, blocks))).astype(np.int32),
        variant=draw.integers(0, variants, (keys, blocks)).astype(np.int32),
        key_of_image=draw.integers(0, keys, images).astype(np.int32) if keys > 1 else None,
        nearest=True,
    )


def _turned_tiles(draw: np.random.Generator, planes: np.ndarray, side: int) -> np.ndarray:
    """[planes, rows, columns], made of tiles of it, drawn and turned."""
    count, rows, columns = planes.shape
    out = np.empty_like(planes)
    for to in np.ndindex(count, rows // side, columns // side):
        of = draw.integers(0, (count, rows // side, columns // side))
        tile = planes[of[0], of[1] * side :, of[2] * side :][:side, :side]
        tile = np.rot90(tile, draw.integers(4))
        out[to[0], to[1] * side :, to[2] * side :][:side, :side] = tile.T if draw.integers(2) else tile
    return out


def integer_types(plan: Plan) -> tuple[torch.dtype, torch.dtype]:
    """Of the integers that a plan takes, and that it gives."""
    types = {BYTE_VALUES: torch.uint8, DECIMAL_VALUES: torch.uint16}
    return types[plan.in_values], types[plan.out_values]


def images_for(plan: Plan, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random images; also values that no encryption gives. NaN only where it becomes an integer."""
    if dtype == torch.uint16:
        return (oracle.image(shape, torch.int32) * 259 % 65536).to(torch.uint16)
    x = oracle.image(shape, dtype, seed=plan.length)
    if dtype.is_floating_point:
        special = torch.tensor(SPECIAL if plan.quantises else SPECIAL[3:]).to(dtype)
        flat, count = x.view(-1), min(x.numel(), len(special))
        flat[:count] = special[:count]
    return x
