"""rotate: each block is turned and mirrored (EtC; Kurihara, Kiya and others, 2015)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.steps.base import Effect, Period, Step, checked_array

POSES = 8  # four quarter turns, mirrored or not


@dataclasses.dataclass(frozen=True)
class Rotate(Step):
    """Each block is turned by d % 4 quarter turns counter-clockwise, then mirrored left to right if d >= 4.

    block_size, period: see `Step`.

    Its explicit secret: integers [G], the pose d of each block, from 0 to 7.
    """

    kind: ClassVar[str] = "rotate"
    moves_geometry: ClassVar[bool] = True

    @property
    def within_blocks(self) -> str:
        return ""

    @property
    def takes_any_values(self) -> bool:
        return True

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        return secret.keystreams(infos).uniforms(np.full(period.blocks, POSES))

    def key_space_bits(self, period: Period) -> float:
        return period.blocks * math.log2(POSES)

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_array(secret, (period.blocks,), POSES, "a pose for each block of a period")

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        b = period.block_size
        block = np.arange(period.length).reshape(b, b, period.channels)
        turned = [np.rot90(block, quarters) for quarters in range(4)]
        poses = [*turned, *(pose[:, ::-1] for pose in turned)]
        return Effect(source=np.stack([pose.reshape(-1) for pose in poses]), variant=secret)
