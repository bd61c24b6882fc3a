"""colour: the channels of each block, or of each pixel, change places (EtC; PE, ICIP 2019)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.steps.base import Effect, Period, Step, checked_array, log2_factorial

MOST_CHANNELS = 12  # 13! orders are more than a 32-bit word of the keystream tells apart


@dataclasses.dataclass(frozen=True)
class Colour(Step):
    """The channels of each unit change places: v'[..., c] = v[..., o[c]].

    unit: what has one order of channels o: each "block", or each "pixel".
    block_size, period: see `Step`.

    Its explicit secret: integers [G] (or [G, b*b] for pixels), the number of each order among all orders of
    0..C-1 in lexicographic order. At most 12 channels.
    """

    unit: Literal["block", "pixel"] = "block"

    kind: ClassVar[str] = "colour"

    def check_channels(self, channels: int) -> None:
        if channels > MOST_CHANNELS:
            raise ValueError(f"channels: colour orders at most {MOST_CHANNELS} channels, got {channels}")

    @property
    def within_blocks(self) -> str:
        return "" if self.unit == "block" else "orders the channels pixel by pixel"

    @property
    def takes_any_values(self) -> bool:
        return True

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        shape = self._shape(period)
        orders = math.factorial(period.channels)
        return secret.keystreams(infos).uniforms(np.full(math.prod(shape), orders)).reshape(-1, *shape)

    def key_space_bits(self, period: Period) -> float:
        return math.prod(self._shape(period)) * log2_factorial(period.channels)

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_array(
            secret, self._shape(period), math.factorial(period.channels), "orders of channels"
        )

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        c, pixels = period.channels, period.block_size * period.block_size
        numbers, unit_order = np.unique(secret, return_inverse=True)
        orders = np.array([_order(int(number), c) for number in numbers]).reshape(-1, c)
        first = np.arange(pixels)[:, None] * c  # of each pixel
        if self.unit == "pixel":
            of_pixel = orders[unit_order.reshape(-1, pixels)]
            return Effect(source=(first + of_pixel).reshape(-1, period.length))
        source = (first + orders[:, None, :]).reshape(len(orders), -1)
        return Effect(source=source, variant=unit_order.reshape(secret.shape))

    def _shape(self, period: Period) -> tuple[int, ...]:
        pixels = period.block_size * period.block_size
        return (period.blocks, pixels) if self.unit == "pixel" else (period.blocks,)


def _order(number: int, channels: int) -> list[int]:
    """The permutation of 0..channels-1 that has this number in lexicographic order."""
    left, order = list(range(channels)), []
    for size in range(channels, 0, -1):
        index, number = divmod(number, math.factorial(size - 1))
        order.append(left.pop(index))
    return order
