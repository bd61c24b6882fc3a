"""What a scheme and a key compile to: one gather and one value substitution, whatever the steps.

    out[p] = table[table_of[p]][flip(in[source[p]])]

A plan is four small arrays over the positions p of a block vector, the tables, and the output stage.
Backends apply plans; nothing below this module knows about steps or keys.

Value domains. An image is made of *integers* 0..values-1 (values = 256, or 1000 in the decimal
profile), or of floats in [0, 1]. A plan with an ffx step *quantises*: floats become integers. Floats are
treated in one of two ways (docs/scheme.md, "Value types"):

- `nearest`, the byte profile, and decryption where there is an ffx step: floats become the nearest integers
  of clamp(v) * in_scale before anything else is done; where nothing quantises, the negative of a byte k/255
  is the byte (255 - k)/255.
- as published, the decimal profile: the negative is 1 - v, and after that integers are made, by truncation.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blockenc.keys.key import AnyKey, StepUse, as_key_set
from blockenc.scheme import MAX_BLOCK_LENGTH, Scheme

BYTE_VALUES = 256
DECIMAL_VALUES = 1000

# What a backend is told beside the packed arrays (csrc/plan.h has the same list).
QUANTISES = 1  # float input becomes integers
NEAREST = 2  # floats k/255 are the bytes k; without it they are treated as published
DECIMAL_IN = 4  # integers in are below 1000, not 256
DECIMAL_OUT = 8  # integers out are below 1000, not 256
NORMALISES = 16  # float output is (v - mean) / std
ALL_FLAGS = 31

MAX_TABLES = 255  # table_of is a byte


class _computed_once:  # noqa: N801 - used like functools.cached_property
    """A property that is kept when first read. Unlike functools.cached_property before Python 3.12 it has no
    lock, which a fork could copy while another thread holds it: the child would wait for ever."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A compiled transform of block vectors. Immutable; holds secrets' consequences, so never printed.

    source: int32 [L], the position each output position reads.
    flips: uint8 [L], how often the value read is replaced by its negative: 255 - v of integers, 1 - v of
        floats (but see `nearest` above). 1 - (1 - v) is not v for all floats, so the number counts, not its
        parity.
    table_of: uint8 [L], 0 for no substitution, else 1 + the row of `tables`.
    tables: uint16 [T, in_values].
    """

    block_size: int
    channels: int
    source: np.ndarray
    flips: np.ndarray
    table_of: np.ndarray
    tables: np.ndarray
    in_values: int = BYTE_VALUES
    out_values: int = BYTE_VALUES
    quantises: bool = False
    nearest: bool = False
    in_scale: int = 255
    out_scale: int = 255
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    most_flips: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        # Now: a trace could not take a number out of an array.
        object.__setattr__(self, "most_flips", int(self.flips.max(initial=0)))

    @property
    def length(self) -> int:
        return len(self.source)

    @_computed_once
    def flags(self) -> int:
        return (
            QUANTISES * self.quantises
            | NEAREST * self.nearest
            | DECIMAL_IN * (self.in_values == DECIMAL_VALUES)
            | DECIMAL_OUT * (self.out_values == DECIMAL_VALUES)
            | NORMALISES * (self.mean is not None)
        )

    @_computed_once
    def output(self) -> np.ndarray:
        """float32 [C, out_values]: the output stage of every integer, each operation rounded to float32.

        (v/scale - mean[c])/std[c], bit for bit what torchvision's ToTensor and Normalize give.
        """
        values = np.arange(self.out_values, dtype=np.float32) / np.float32(self.out_scale)
        mean, std = self._normalisation()
        table: np.ndarray = (values[None, :] - mean[:, None]) / std[:, None]
        return table

    def _normalisation(self) -> np.ndarray:
        """float32 [2, C]: mean and std, 0 and 1 where there is none."""
        mean = self.mean or (0.0,) * self.channels
        std = self.std or (1.0,) * self.channels
        return np.array([mean, std], np.float32)

    @_computed_once
    def packed(self) -> np.ndarray:
        """The arrays as one uint8 vector, the form in which a plan enters a graph or a GPU.

        Sections, each padded to SECTION bytes: float32 [1 + 2C] (in_scale, mean, std), source, flips,
        table_of, tables, output. `unpack` is the inverse; csrc/plan.h reads the same layout.
        """
        floats = np.concatenate([np.array([self.in_scale], np.float32), self._normalisation().ravel()])
        sections = [floats, self.source, self.flips, self.table_of, self.tables, self.output]
        return np.concatenate([_padded(section) for section in sections])

    def substitutions(self) -> np.ndarray:
        """int64 [L, in_values]: what every integer read at source[p] becomes at position p."""
        rows = [_substitution(self, int(f) % 2, int(t)) for f, t in zip(self.flips, self.table_of)]
        return np.stack(rows).astype(np.int64)

    @classmethod
    def unpack(cls, packed: np.ndarray, block_size: int, channels: int, tables: int, flags: int) -> Plan:
        """The plan in `packed`. The output stage is kept as mean and std.

        A packed plan may come from anyone: raises ValueError unless every index in it lies inside what it
        indexes.
        """
        size = check_sizes(block_size, channels, tables, flags)
        if packed.shape != (size,) or packed.dtype != np.uint8:
            raise ValueError(
                f"plan: expected {size} bytes for this scheme, got {packed.dtype} {packed.shape}"
            )
        packed = packed.copy()  # what is checked is what is used, whoever may write to the plan meanwhile
        length = block_size * block_size * channels
        in_values, out_values = _value_counts(flags)
        arrays, start = [], 0
        for dtype, shape in _sections(block_size, channels, tables, flags):
            count = math.prod(shape) * np.dtype(dtype).itemsize
            arrays.append(packed[start : start + count].view(dtype).reshape(shape))
            start += _padded_size(count)
        floats, source, flips, table_of, table_rows, output = arrays
        if not 0 <= floats[0] <= in_values - 1:  # NaN fails
            raise ValueError("plan: the scale of its float input is out of range")
        if source.min() < 0 or source.max() >= length or table_of.max() > tables:
            raise ValueError("plan: an index in it is out of range")
        if tables and table_rows.max() >= out_values:
            raise ValueError("plan: a table value in it is out of range")
        normalised = bool(flags & NORMALISES)
        plan = cls(
            block_size=block_size,
            channels=channels,
            source=source,
            flips=flips,
            table_of=table_of,
            tables=table_rows,
            in_values=in_values,
            out_values=out_values,
            quantises=bool(flags & QUANTISES),
            nearest=bool(flags & NEAREST),
            in_scale=int(floats[0]),
            mean=tuple(floats[1 : 1 + channels].tolist()) if normalised else None,
            std=tuple(floats[1 + channels :].tolist()) if normalised else None,
        )
        plan.__dict__["output"] = output  # as packed: out_scale need not be known
        return plan

    def with_output(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Plan:
        """This plan with another output stage."""
        return dataclasses.replace(
            self,
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
        )

    def __repr__(self) -> str:
        return f"Plan(block_size={self.block_size}, channels={self.channels}, flags={self.flags})"


SECTION = 64  # a cache line, so that every section may be read with aligned vectors


@functools.lru_cache(maxsize=256)  # every call asks
def check_sizes(block_size: int, channels: int, tables: int, flags: int) -> int:
    """How many bytes a packed plan has. Raises ValueError for numbers that no plan has."""
    if not (block_size >= 1 and channels >= 1 and block_size * block_size * channels <= MAX_BLOCK_LENGTH):
        raise ValueError(
            f"plan: expected a block of 1 to {MAX_BLOCK_LENGTH} values, got {block_size} x {block_size} x "
            f"{channels}"
        )
    if not 0 <= tables <= MAX_TABLES:
        raise ValueError(f"plan: expected 0 to {MAX_TABLES} tables, got {tables}")
    if not 0 <= flags <= ALL_FLAGS:
        raise ValueError(f"plan: expected flags from 0 to {ALL_FLAGS}, got {flags}")
    return sum(
        _padded_size(math.prod(shape) * np.dtype(dtype).itemsize)
        for dtype, shape in _sections(block_size, channels, tables, flags)
    )


def _value_counts(flags: int) -> tuple[int, int]:
    return (
        DECIMAL_VALUES if flags & DECIMAL_IN else BYTE_VALUES,
        DECIMAL_VALUES if flags & DECIMAL_OUT else BYTE_VALUES,
    )


def _sections(block_size: int, channels: int, tables: int, flags: int) -> list[tuple[Any, tuple[int, ...]]]:
    """dtype and shape of each section of a packed plan."""
    in_values, out_values = _value_counts(flags)
    length = block_size * block_size * channels
    return [
        (np.float32, (1 + 2 * channels,)),
        (np.int32, (length,)),
        (np.uint8, (length,)),
        (np.uint8, (length,)),
        (np.uint16, (tables, in_values)),
        (np.float32, (channels, out_values)),
    ]


def _padded_size(size: int) -> int:
    return size + -size % SECTION


def _padded(array: np.ndarray) -> np.ndarray:
    data = np.ascontiguousarray(array).view(np.uint8).ravel()
    return np.concatenate([data, np.zeros(-data.size % SECTION, np.uint8)])


def compile_plan(scheme: Scheme, key: AnyKey, *, decrypt: bool = False) -> Plan:
    """The plan of a scheme under a key."""
    plans = [_step_plan(scheme, key, n) for n in range(len(scheme.steps))]
    if decrypt:
        plans = [invert(plan) for plan in reversed(plans)]
    return functools.reduce(compose, plans)


def _step_plan(scheme: Scheme, key: AnyKey, n: int) -> Plan:
    """The plan of the n-th step alone."""
    step = scheme.steps[n]
    secret = as_key_set(key).member(step)
    use = StepUse(step, scheme.steps[:n].count(step), scheme.channels, scheme.block_size)
    zeros = np.zeros(scheme.length, np.uint8)
    plan = Plan(
        block_size=scheme.block_size,
        channels=scheme.channels,
        source=np.arange(scheme.length, dtype=np.int32),
        flips=zeros,
        table_of=zeros,
        tables=np.zeros((0, BYTE_VALUES), np.uint16),
        nearest=scheme.ffx != "decimal",
    )
    if step == "shuffle":
        return dataclasses.replace(plan, source=secret.permutation(use).astype(np.int32))
    if step == "np":
        return dataclasses.replace(plan, flips=secret.mask(use).astype(np.uint8))
    table = secret.ffx_table(use, scheme.ffx)
    decimal = scheme.ffx == "decimal"
    return dataclasses.replace(
        plan,
        table_of=secret.mask(use).astype(np.uint8),
        tables=table[None, :],
        out_values=DECIMAL_VALUES if decimal else BYTE_VALUES,
        quantises=True,
        out_scale=int(table.max()) if decimal else 255,
    )


def compose(first: Plan, second: Plan) -> Plan:
    """The plan that does `first`, then `second` (which reads what `first` wrote)."""
    s = second.source
    moved = {"source": first.source[s], "flips": first.flips[s], "table_of": first.table_of[s]}
    if not second.flips.any() and not second.quantises:  # nothing but a gather: any value domain goes
        return dataclasses.replace(first, **moved)
    only_gathers = not first.flips.any() and not first.quantises
    if first.out_values != second.in_values and not only_gathers:
        raise ValueError(
            f"plan: the first part leaves values below {first.out_values}, the second takes values "
            f"below {second.in_values}"
        )
    if not first.quantises:  # flips add up until something quantises
        flips = moved["flips"] + second.flips
        return dataclasses.replace(second, source=moved["source"], flips=flips)
    chains = np.stack([moved["table_of"], second.flips % 2, second.table_of], axis=1)
    distinct, row_of = np.unique(chains, axis=0, return_inverse=True)
    rows = [_substitution(second, f, t)[_substitution(first, 0, table)] for table, f, t in distinct]
    return _with_rows(
        dataclasses.replace(
            first,
            **moved,
            out_values=second.out_values,
            out_scale=second.out_scale if second.quantises else first.out_scale,
        ),
        rows,
        row_of.reshape(-1),
    )


def invert(plan: Plan) -> Plan:
    """The plan that undoes `plan`. Values that `plan` never gives become 255."""
    inverse = np.empty_like(plan.source)
    inverse[plan.source] = np.arange(plan.length, dtype=np.int32)
    back = dataclasses.replace(
        plan,
        source=inverse,
        flips=plan.flips[inverse],
        in_values=plan.out_values,
        out_values=plan.in_values,
        in_scale=plan.out_scale,
        out_scale=plan.in_scale,
        nearest=plan.nearest or plan.quantises,
        mean=None,
        std=None,
    )
    if not plan.quantises:
        return back
    chains = np.stack([plan.flips % 2, plan.table_of], axis=1)[inverse]
    distinct, row_of = np.unique(chains, axis=0, return_inverse=True)
    rows = []
    for f, t in distinct:
        row = np.full(plan.out_values, BYTE_VALUES - 1, np.uint16)
        if t == 0:  # not enciphered: the value itself, flipped back; what is above 255 is clamped
            row[:BYTE_VALUES] = _substitution(plan, f, 0)
            row[BYTE_VALUES:] = row[BYTE_VALUES - 1]
        else:
            row[_substitution(plan, f, t)] = np.arange(plan.in_values, dtype=np.uint16)
        rows.append(row)
    return _with_rows(dataclasses.replace(back, flips=np.zeros_like(plan.flips)), rows, row_of.reshape(-1))


def _substitution(plan: Plan, flip: int, table: int) -> np.ndarray:
    """What `plan` makes of every value in at a position with this parity of flips and this table."""
    values = np.arange(plan.in_values)
    if flip:
        values = BYTE_VALUES - 1 - values
    return plan.tables[table - 1][values] if table else np.minimum(values, plan.out_values - 1)


def _with_rows(plan: Plan, rows: list[np.ndarray], row_of: np.ndarray) -> Plan:
    """`plan` substituting by `rows`, where position p uses rows[row_of[p]]; identities need no table."""
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
        table_of=numbers[row_of].astype(np.uint8),
        tables=np.array(tables, np.uint16).reshape(len(tables), plan.in_values),
    )


__all__ = ["Plan", "compile_plan", "compose", "invert"]
