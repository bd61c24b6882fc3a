"""Random plans, built directly: with what no scheme compiles to as well."""

from __future__ import annotations

import numpy as np
import torch

from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES, Plan
from tests import oracle

SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 2.0, -3.0, 1e-45, 1.0)
FORMS = ("uniform", "nibbles", "grid", "keys", "keys and grid", "nibbles and grid", "nibbles, keys and grid")


def draw_plan(
    form: str, seed: int, *, images: int = 3, rows: int | None = None, columns: int | None = None
) -> tuple[Plan, tuple[int, int, int, int]]:
    """A random plan of this form, and a shape of images for it. rows, columns: of blocks; else drawn."""
    draw = np.random.default_rng([FORMS.index(form), seed])

    def integers(end: int, *shape: int, dtype: type = np.int32) -> np.ndarray:
        return draw.integers(0, end, shape).astype(dtype)

    m, c = int(draw.choice([1, 2, 3, 4, 5, 8])), int(draw.choice([1, 2, 3, 4]))
    drawn_rows, drawn_columns = (int(draw.integers(1, 6)) for _ in range(2))
    rows = rows or drawn_rows
    columns = columns or (32 if form == "uniform" and seed % 2 else drawn_columns)  # 32: whole vectors
    length, nibbles, grid = m * m * c, "nibbles" in form, "grid" in form
    keys = int(draw.integers(1, 5)) if "keys" in form else 1
    variants = int(draw.integers(1, 8)) if grid else keys
    cells, tables = length * (2 if nibbles else 1), int(draw.choice([0, 1, 5, 300]))
    quantises = nibbles or bool(draw.integers(2))
    decimal_in = not nibbles and draw.random() < 0.3
    in_values = DECIMAL_VALUES if decimal_in else BYTE_VALUES
    out_values = DECIMAL_VALUES if draw.random() < 0.3 else BYTE_VALUES
    normalised = draw.random() < 0.5
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
