"""The oracle (blockenc.reference) behind the interface of the library, and images to compare on."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import torch

from blockenc.reference import version1, version2

KEY = bytes(range(32))
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
REMEMBERED = 2**28  # bytes of each function's answers that are kept


def remembered(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function of an image and more, which is asked once what the tests ask for every backend."""
    answers: dict[bytes, torch.Tensor] = {}  # the oldest first
    size = 0

    @functools.wraps(function)
    def ask(x: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        nonlocal size
        question = hashlib.blake2b(pickle.dumps((x.dtype, tuple(x.shape), args, options)))
        question.update(x.contiguous().flatten().view(torch.uint8).numpy())
        if question.digest() not in answers:
            answer = function(x, *args, **options)
            size += answer.nbytes
            answers[question.digest()] = answer
            while size > REMEMBERED:
                size -= answers.pop(next(iter(answers))).nbytes
            return answer.clone()
        return answers[question.digest()].clone()

    return ask


@functools.cache
def _step_secret(step: str, ordinal: int, block_size: int, channels: int, ffx: str) -> tuple:
    keys = dict.fromkeys(("shuffle", "np", "ffx"), KEY)
    repeated = (step,) * (ordinal + 1)
    found = version1.secrets(keys, steps=repeated, block_size=block_size, channels=channels, ffx=ffx)
    return found[-1]


def secrets(steps: tuple[str, ...], block_size: int, channels: int, ffx: str = "byte") -> list[tuple]:
    return [
        _step_secret(step, steps[:n].count(step), block_size, channels, ffx) for n, step in enumerate(steps)
    ]


@remembered
def expected(
    x: torch.Tensor,
    step_secrets: list[tuple],
    block_size: int,
    *,
    decrypt: bool = False,
    ffx: str = "byte",
    dtype: torch.dtype | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> torch.Tensor:
    """What the steps make of x [N, C, H, W] as `dtype` (default: x's), by the oracle."""
    name = str(x.dtype).removeprefix("torch.")
    carrier = x.float() if x.is_floating_point() else x.to(torch.int64)
    values, scale = version1.run(
        carrier.permute(0, 2, 3, 1).numpy(),
        step_secrets,
        block_size=block_size,
        decrypt=decrypt,
        ffx=ffx,
        dtype=name,
    )
    return _as_tensor(values, scale, dtype or x.dtype, mean, std)


@functools.lru_cache(maxsize=256)
def _scheme_secrets(scheme: str, height: int, width: int, image_id: bytes | None) -> list[dict]:
    keys = dict.fromkeys(version2.PARAMETERS, KEY)
    return version2.secrets(keys, json.loads(scheme), height, width, image_id)


@remembered
def expected_of_scheme(
    x: torch.Tensor,
    scheme: dict,
    ids: Sequence[int | str | bytes] | None = None,
    *,
    decrypt: bool = False,
    dtype: torch.dtype | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> torch.Tensor:
    """What a scheme of version 2 makes of x [N, C, H, W] under KEY, as `dtype` (default: x's)."""
    name = str(x.dtype).removeprefix("torch.")
    carrier = x.float() if x.is_floating_point() else x.to(torch.int64)
    text, size = json.dumps(scheme), tuple(x.shape[2:])
    found = (
        _scheme_secrets(text, *size, None)
        if ids is None
        else [_scheme_secrets(text, *size, version2.id_bytes(image_id)) for image_id in ids]
    )
    values, scale = version2.run(
        carrier.permute(0, 2, 3, 1).numpy(), found, scheme, decrypt=decrypt, dtype=name
    )
    return _as_tensor(values, scale, dtype or x.dtype, mean, std)


def _as_tensor(
    values: np.ndarray,
    scale: int | np.ndarray,
    dtype: torch.dtype,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> torch.Tensor:
    """The oracle's values [N, H, W, C] after the output stage, as a tensor [N, C, H, W] of `dtype`."""
    if dtype.is_floating_point:
        values = version1.output(values, scale, str(dtype).removeprefix("torch."), mean, std)
    return torch.from_numpy(np.ascontiguousarray(values)).permute(0, 3, 1, 2).to(dtype)


def image(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8, seed: int = 0) -> torch.Tensor:
    """A random image batch: every byte value, or floats in [0, 1] including both ends and 1/255 steps."""
    generator = torch.Generator().manual_seed(seed)
    bytes_ = torch.randint(0, 256, shape, generator=generator)
    if not dtype.is_floating_point:
        return bytes_.to(dtype)
    uniform = torch.rand(shape, generator=generator)
    return torch.where(uniform < 0.5, bytes_ / 255, uniform).to(dtype)
