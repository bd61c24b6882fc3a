"""A DataLoader's collate_fn that encrypts the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate, get_worker_info

from blockenc.cipher import PIL_MODES, Cipher, torch_dtype
from blockenc.ops import result_dtype

Field = int | str
# Where a dict's image is looked for, unless `images` tells.
USUAL_NAMES = ("image", "img", "pixel_values", "png", "jpg")


def check_output(
    cipher: Cipher,
    dtype: torch.dtype | np.dtype | str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> torch.dtype | None:
    """The dtype as torch's; raises now what the first batch would: encrypts one block."""
    if not isinstance(cipher, Cipher):
        raise TypeError(f"cipher: expected a blockenc.Cipher, got {type(cipher).__name__}")
    scheme = cipher.scheme
    block = torch.zeros(scheme.channels, scheme.block_size, scheme.block_size, dtype=torch.uint8)
    cipher.encrypt(block, dtype=dtype, mean=mean, std=std)
    return None if dtype is None else torch_dtype(dtype)


class EncryptCollate:
    """Collates samples as torch's default does, the images encrypted in one call a batch.

    A sample is an image, or a tuple, named tuple, list or dict that holds images and anything else. An
    image is a PIL image, a NumPy array [H, W, C], or a torch tensor [C, H, W], uint8 or floating in
    [0, 1]. A batch of images becomes one tensor [N, C, H, W]; everything else goes through `collate`.

    cipher: what encrypts.
    images: the fields that are images: positions, or names of a dict or named tuple, one or several.
        Default: the first field, and of dicts the one called image, img, pixel_values, png or jpg.
    keep: fields that come out as a list, one entry a sample, untouched: boxes, masks of many sizes.
    dtype, mean, std: the output stage of `Cipher.encrypt`, in the same pass: it replaces
        ToTensor and Normalize.
    memory_format: of the batches, torch.contiguous_format or torch.channels_last.
    collate: for what is neither (default: torch.utils.data.default_collate).

    Works in workers under fork, spawn and forkserver; a pickled one holds what a pickled Cipher holds.
    Raises TypeError or ValueError that names the argument; for a batch that does not fit together, the
    sample that does not.
    """

    def __init__(
        self,
        cipher: Cipher,
        *,
        images: Field | Sequence[Field] | None = None,
        keep: Field | Sequence[Field] = (),
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        self.dtype = check_output(cipher, dtype, mean, std)
        self.cipher, self.mean, self.std = cipher, mean, std
        self.images = None if images is None else _fields(images, "images")
        self.keep = _fields(keep, "keep")
        if self.images == ():
            raise ValueError("images: expected at least one field, got none")
        if both := set(self.images or ()) & set(self.keep):
            raise ValueError(f"keep: {', '.join(map(repr, both))} cannot be kept, it is in images")
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(
                f"memory_format: expected contiguous_format or channels_last, got {memory_format}"
            )
        self.memory_format = memory_format
        self.collate = collate

    def __repr__(self) -> str:
        return f"EncryptCollate({self.cipher!r}, images={self.images!r}, dtype={self.dtype})"

    def __call__(self, batch: Sequence[Any]) -> Any:
        """The batch. Raises as the class says; what `collate` raises, it raises."""
        if not len(batch):
            raise ValueError("batch: expected at least one sample, got none")
        first = batch[0]
        if _is_image(first):
            return self._encrypt(batch, "")
        if not isinstance(first, (tuple, list, Mapping)):
            raise TypeError(
                "batch: expected samples that are images, or tuples, lists or dicts that hold one, "
                f"got {type(first).__name__}"
            )
        images = self.images if self.images is not None else (_usual_field(first),)
        done: dict[Field, Any] = {
            field: self._encrypt(_column(batch, field), f", field {field!r}") for field in images
        }
        done.update({field: _column(batch, field) for field in self.keep})
        # Numbers stand in for these fields, so that the containers become what torch makes of them.
        return _replaced(self.collate([_replaced(s, dict.fromkeys(done, 0)) for s in batch]), done)

    def _encrypt(self, samples: Sequence[Any], place: str) -> torch.Tensor:
        stacked = _stack(samples, place)
        dtype = result_dtype(stacked.dtype, self.cipher.plan().flags, self.dtype)
        out = _empty(tuple(stacked.shape), dtype, self.memory_format)
        result: torch.Tensor = self.cipher.encrypt(stacked, out=out, mean=self.mean, std=self.std)
        return result


def _fields(given: Field | Sequence[Field], name: str) -> tuple[Field, ...]:
    fields = tuple(given) if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    for field in fields:
        if isinstance(field, bool) or not isinstance(field, (int, str)):
            raise TypeError(f"{name}: expected positions or names of fields, got {field!r}")
    return fields


def _usual_field(sample: Any) -> Field:
    if not isinstance(sample, Mapping):
        return 0
    for name in USUAL_NAMES:
        if name in sample:
            return name
    raise ValueError(
        f"images: say which field is the image, none of {', '.join(map(repr, sample))} is called "
        f"{', '.join(USUAL_NAMES)}"
    )


def _column(batch: Sequence[Any], field: Field) -> list[Any]:
    """One field of every sample."""
    values = []
    for number, sample in enumerate(batch):
        try:
            by_name = isinstance(field, str) and hasattr(sample, "_fields")
            values.append(getattr(sample, str(field)) if by_name else sample[field])
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError(f"batch: sample {number} has no field {field!r}") from None
    return values


def _replaced(sample: Any, values: dict[Field, Any]) -> Any:
    """A copy of a sample, or of a collated batch, with some fields replaced."""
    if isinstance(sample, MutableMapping):
        result: Any = copy.copy(sample)
        result.update(values)
        return result
    if isinstance(sample, Mapping):
        return {**sample, **values}
    if hasattr(sample, "_fields"):
        names = {sample._fields[f] if isinstance(f, int) else f: value for f, value in values.items()}
        return sample._replace(**names)
    result = list(sample)
    for field, value in values.items():
        result[field] = value  # type: ignore[index]
    return tuple(result) if isinstance(sample, tuple) else result


def _is_image(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray)) or hasattr(value, "getbands")


def _stack(samples: Sequence[Any], place: str) -> torch.Tensor:
    """The images as one tensor [N, C, H, W], of the strides that cost least."""
    first, want = samples[0], _describe(samples[0], 0, place)
    for number, sample in enumerate(samples):
        if (got := _describe(sample, number, place)) != want:
            raise ValueError(
                f"batch: sample {number}{place} is {got}, sample 0 is {want}; bring the images to one size "
                "and kind before they are collated"
            )
    if isinstance(first, torch.Tensor):
        return torch.stack([sample.as_subclass(torch.Tensor) for sample in samples])
    arrays = [np.asarray(sample) for sample in samples]
    stacked = np.stack([array if array.ndim == 3 else array[:, :, None] for array in arrays])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def _describe(image: Any, number: int, place: str) -> str:
    """Kind, shape and dtype, in words that are equal only for images that can be stacked."""
    if hasattr(image, "getbands"):
        if image.mode not in PIL_MODES:
            raise ValueError(
                f"batch: sample {number}{place} is a PIL image of mode {image.mode!r}; convert it first, for "
                'instance with image.convert("RGB")'
            )
        return f"a PIL image {image.mode} of {image.width} x {image.height}"
    if isinstance(image, torch.Tensor):
        kind, axes = "a tensor", "[C, H, W]"
    elif isinstance(image, np.ndarray):
        kind, axes = "an array", "[H, W, C]"
    else:
        raise TypeError(
            f"batch: sample {number}{place}: expected a PIL image, a NumPy array or a torch tensor, "
            f"got {type(image).__name__}"
        )
    if image.ndim != 3:
        raise ValueError(
            f"batch: sample {number}{place}: expected an image {axes}, got shape {tuple(image.shape)}"
        )
    return f"{kind} {list(image.shape)} of {image.dtype}"


def _empty(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> torch.Tensor:
    """A batch to fill; in a worker in shared memory, as default_collate has it, which saves a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)
    meta = torch.empty(shape, dtype=dtype, memory_format=memory_format, device="meta")
    storage = torch.UntypedStorage._new_shared(meta.numel() * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, meta.shape, meta.stride())
