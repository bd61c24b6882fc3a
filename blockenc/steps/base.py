"""What the kinds of steps have in common: parameters, the period a secret is drawn for, and what a step
does."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar, get_args, get_type_hints

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.limits import MAX_BLOCK_LENGTH

IMAGE: Final = "image"  # the period that is the whole image
# Values of a period: a secret takes some 30 bytes of memory for each while it is drawn.
MAX_PERIOD_VALUES = 1 << 26

AnyStep = TypeVar("AnyStep", bound="Step")


def positive_int(value: object, name: str, least: int = 1) -> int:
    """`value` as an int of at least 1, or as much as said, or an error that names the argument."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r} ({type(value).__name__})")
    number = value.__index__()
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {number}")
    return int(number)


class Period(NamedTuple):
    """What a step's secret is drawn for: rows x columns of blocks, of block_size x block_size x channels."""

    block_size: int
    channels: int
    rows: int
    columns: int

    @property
    def blocks(self) -> int:
        """G, the blocks of a period, numbered row by row."""
        return self.rows * self.columns

    @property
    def length(self) -> int:
        """l, the values of a block vector: position p = (i*b + j)*C + c is row i, column j, channel c."""
        return self.block_size * self.block_size * self.channels


class Effect(NamedTuple):
    """What a step does to the blocks of a period, with the secrets of K keys in it.

    There are V *variants* of what is done to a block; `cells` is l, or 2l where the step works on nibbles
    (cell q < l is the low half of value q, cell l + q its high half). None stands for "as it is".
    """

    source: np.ndarray | None = None  # integers [V, cells]: the cell that each cell of the result reads
    flips: np.ndarray | None = None  # bool [V, cells]: whether the cell read is replaced by its negative
    selected: np.ndarray | None = None  # bool [K*G, l]: whether the value is looked up in a table
    tables: np.ndarray | None = None  # uint16 [K, 256], one for each key
    decimal: bool = False  # whether the values of the tables are below 1000, not 256
    variant: np.ndarray | None = None  # integers [K, G]: the variant of each block; None: V is 1 or K*G
    moves: np.ndarray | None = None  # integers [K, G]: the block that each block of the result comes from

    def __repr__(self) -> str:
        return "Effect(<hidden>)"


@dataclasses.dataclass(frozen=True)
class Step(abc.ABC):
    """A step of a scheme: a kind, the blocks it acts on, and the parameters of its kind.

    block_size: b, in pixels; None is the scheme's.
    period: P, in pixels, a multiple of b, or "image". The image is cut into periods of P x P pixels, and
        the step's secret is drawn once for a whole period: all periods are treated alike. None is b.

    The definition of every kind: docs/scheme.md, "Version 2". Raises TypeError or ValueError naming the
    argument.
    """

    block_size: int | None = None
    period: int | Literal["image"] | None = None

    kind: ClassVar[str]
    moves_blocks: ClassVar[bool] = False  # whether blocks change places
    mixes_values: ClassVar[bool] = False  # whether values change places within a block in any order
    moves_geometry: ClassVar[bool] = False  # whether masks and boxes would have to move with the pixels

    @property
    def is_idle(self) -> bool:
        """Whether a bound step does nothing, whatever its secret."""
        return False

    @property
    def within_blocks(self) -> str:
        """What it does to the values inside of a block, in words that follow its name; "" where blocks stay
        whole.

        A block is whole if it is moved, turned, negated or has its channels in another order, as one. Codecs
        that transform blocks, as JPEG does, keep these, and nothing else.
        """
        return "changes values"

    @property
    def makes_integers(self) -> bool:
        """Whether floats have to become integers for it."""
        return False

    @property
    def takes_any_values(self) -> bool:
        """Whether values beyond 255, which a decimal ffx leaves, go through it: where it only moves
        values."""
        return False

    def __post_init__(self) -> None:
        if self.block_size is not None:
            object.__setattr__(self, "block_size", positive_int(self.block_size, "block_size"))
        if self.period == IMAGE:
            object.__setattr__(self, "period", IMAGE)
        elif self.period is not None:
            if isinstance(self.period, str):
                raise ValueError(f'period: expected a number of pixels or "image", got {self.period!r}')
            object.__setattr__(self, "period", positive_int(self.period, "period"))
        for name, allowed in _choices(type(self)).items():
            value = getattr(self, name)
            if not allowed:
                value = positive_int(value, name, least=0)
            elif value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
            else:  # an enumeration equal to a string may have another text, which the secret is bound to
                value = allowed[allowed.index(value)]
            object.__setattr__(self, name, value)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """The parameters of the kind, in the order of its definition."""
        return tuple(_choices(cls))

    # --- the place of a step in a scheme --------------------------------------------------------

    def bound(self: AnyStep, block_size: int, channels: int) -> AnyStep:
        """This step in a scheme of that block size: with its own block size and period filled in."""
        b = self.block_size or block_size
        if b * b * channels > MAX_BLOCK_LENGTH:
            raise ValueError(
                f"block_size: a block of {b} x {b} x {channels} has {b * b * channels} values, more than the "
                f"{MAX_BLOCK_LENGTH} supported"
            )
        period = self.period or b
        if period != IMAGE and period % b:
            raise ValueError(f"period: expected a multiple of the block size {b}, got {period}")
        self.check_channels(channels)
        return dataclasses.replace(self, block_size=b, period=period)

    def unbound(self: AnyStep, block_size: int) -> AnyStep:
        """The inverse of `bound`: what a scheme of that block size gives to a step by default is left out."""
        period = None if self.period == self.block_size else self.period
        b = None if self.block_size == block_size else self.block_size
        return dataclasses.replace(self, block_size=b, period=period)

    def check_channels(self, channels: int) -> None:  # noqa: B027 - most kinds take any number
        """Raises ValueError where the kind cannot work on that many channels."""

    def check_period(self, period: Period) -> None:  # noqa: B027 - most parameters go with any period
        """Raises ValueError where the parameters ask for more than the period has."""

    def period_of(self, height: int, width: int, channels: int) -> Period:
        """The period of a bound step in images of that size. Raises ValueError where it is none for it."""
        b, period = self.block_size, self.period
        assert b is not None
        assert period is not None
        if isinstance(period, int):
            height = width = period
        if height * width * channels > MAX_PERIOD_VALUES:
            raise ValueError(
                f"period: one of {height} x {width} pixels of {channels} channels has more than the "
                f"{MAX_PERIOD_VALUES} values supported"
            )
        found = Period(b, channels, height // b, width // b)
        self.check_period(found)
        return found

    def text(self, period: Period) -> str:
        """What the key schedule binds the step to (docs/scheme.md, "Key schedule of version 2")."""
        b = period.block_size
        values = {name: getattr(self, name) for name in self.parameters()}
        # A number is left out at 0: such parameters joined the definition when texts were frozen.
        parts = [f"{name}={value}" for name, value in values.items() if value != 0]
        return ",".join([self.kind, *parts, f"b={b}", f"P={period.rows * b}x{period.columns * b}"])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without those at their default."""
        changed = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {"kind": self.kind, **{n: v for n, v in changed.items() if v != defaults[n]}}

    # --- what a kind defines --------------------------------------------------------------------

    @abc.abstractmethod
    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> Any:
        """The step's secrets for a period, one for each info: drawn from the keystreams that `secret` has for
        them, in arrays whose first axis is K, the number of infos."""

    @abc.abstractmethod
    def key_space_bits(self, period: Period) -> float:
        """log2 of the number of different secrets of a period."""

    @abc.abstractmethod
    def checked(self, secret: Any, period: Period) -> Any:
        """A secret that a user gave (ExplicitKey), in the form of `draw`, K = 1; ValueError for no secret."""

    @abc.abstractmethod
    def effect(self, secret: Any, period: Period) -> Effect:
        """What the step does with these secrets, in the form of `draw`."""


@functools.cache
def _choices(kind: type[Step]) -> dict[str, tuple[str, ...]]:
    """The parameters of a kind in the order of its definition, each with the values that its type admits;
    none for a number."""
    common, hints = {field.name for field in dataclasses.fields(Step)}, get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in common]
    return {name: get_args(hints[name]) for name in names}


def log2_factorial(n: int) -> float:
    """log2 n!"""
    return math.lgamma(n + 1) / math.log(2)


def log2_masks(n: int) -> float:
    """log2 of the number of masks that select floor(n/2) of n units."""
    return log2_factorial(n) - log2_factorial(n // 2) - log2_factorial(n - n // 2)


def check_fixed(fixed: int, n: int) -> None:
    """Raises ValueError unless `fixed` of n positions may stay in place: at least two have to be left."""
    if fixed and fixed > n - 2:
        raise ValueError(f"fixed: expected 0, or at most {max(n - 2, 0)} of {n} positions, got {fixed}")


def with_fixed(drawn: np.ndarray, fixed: int) -> np.ndarray:
    """Permutations [..., n] that leave `fixed` positions in place, out of drawn ones.

    The positions that move are the first n - fixed numbers of the drawn permutation, and they move in its
    order (docs/scheme.md, "Steps").
    """
    if not fixed:
        return drawn
    n = drawn.shape[-1]
    moving = drawn[..., : n - fixed]
    found = np.broadcast_to(np.arange(n), drawn.shape).copy()
    np.put_along_axis(found, np.sort(moving, axis=-1), moving, axis=-1)
    return found


def log2_permutations(n: int, fixed: int) -> float:
    """log2 of the number of permutations of n that leave at least `fixed` positions in place."""
    if not fixed:
        return log2_factorial(n)
    # Exactly k positions stay in n!/k! * shares[n - k] of them: shares[m] of m! permutations leave none.
    share = term = 1.0
    shares = [share]
    for m in range(1, n - fixed + 1):
        term /= -m
        share += term
        shares.append(share)
    total, weight = 0.0, 1.0  # weight is fixed!/k!
    for k in range(fixed, n + 1):
        total += weight * shares[n - k]
        weight /= k + 1
    return log2_factorial(n) - log2_factorial(fixed) + math.log2(total)


def checked_array(value: Any, shape: tuple[int, ...], below: int, what: str) -> np.ndarray:
    """A secret that a user gave, as int64 [1, *shape] with values in 0..below - 1; else ValueError."""
    array = np.asarray(value)
    # An axis may be given as several: the blocks of a period as rows and columns, a block as it lies.
    fits = any(
        math.prod(array.shape[:axes]) == shape[0] and math.prod(array.shape[axes:]) == math.prod(shape[1:])
        for axes in range(array.ndim + 1)
    )
    if array.dtype.kind not in "biu" or not fits:
        raise ValueError(
            f"secret: expected {what}, integers of shape {shape}, got {array.dtype} {array.shape}"
        )
    array = array.reshape(1, *shape).astype(np.int64)
    if array.size and not (array.min() >= 0 and array.max() < below):
        raise ValueError(f"secret: expected {what}, values from 0 to {below - 1}")
    return array


def checked_permutations(value: Any, shape: tuple[int, ...], what: str, fixed: int = 0) -> np.ndarray:
    """The same, where the last axis of the array holds permutations that leave `fixed` positions in place."""
    array = checked_array(value, shape, shape[-1], what)
    if not (np.sort(array, axis=-1) == np.arange(shape[-1])).all():
        raise ValueError(f"secret: expected {what}: every number from 0 to {shape[-1] - 1} once")
    if not ((array == np.arange(shape[-1])).sum(axis=-1) >= fixed).all():
        raise ValueError(f"secret: expected {what}: at least {fixed} numbers in their place")
    return array
