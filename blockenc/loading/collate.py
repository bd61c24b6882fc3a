"""A DataLoader's collate_fn that encrypts the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate, get_worker_info

from blockenc.cipher import Cipher, as_cipher
from blockenc.dtypes import torch_dtype
from blockenc.hidden import hide
from blockenc.images import PIL_MODES, as_tensor, channels_error, describe, fitted_side, mode_advice
from blockenc.loading.fields import (
    USUAL_NAMES,
    Field,
    Path,
    at,
    children,
    find,
    given_fields,
    image_paths,
    is_array,
    label,
    leaves,
    put,
    refuse_images,
    within,
)
from blockenc.loading.ids import DISPOSABLE, Ids, drawn, given_ids


def check_output(
    cipher: Cipher,
    dtype: torch.dtype | np.dtype | str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    *,
    decrypt: bool = False,
) -> torch.dtype | None:
    """The dtype as torch's; raises now what the first batch would: encrypts, or decrypts, one small image."""
    scheme = cipher.scheme
    integers = torch.uint16 if decrypt and scheme.is_decimal else torch.uint8
    block = torch.zeros((scheme.channels, scheme.side, scheme.side), dtype=integers, device="cpu")
    ids = [0] if cipher.per_image else None
    if decrypt:
        cipher.decrypt(block, dtype=dtype, ids=ids)
    else:
        cipher.encrypt(block, dtype=dtype, mean=mean, std=std, ids=ids)
    return None if dtype is None else torch_dtype(dtype)


class EncryptCollate:
    """Collates samples as torch's default does, the images encrypted in one call a batch.

    A sample is an image, or a tuple, named tuple, list, dict or dataclass that holds images and anything
    else. An image is a PIL image, a NumPy array [H, W, C], or a torch tensor [C, H, W], uint8 or floating
    in [0, 1]; under a cipher of one channel also [H, W]. A batch of images becomes one tensor
    [N, C, H, W]; everything else goes through `collate`. A field that is a list of images (views of one
    picture) comes out as a list of batches.

    What is neither encrypted nor named in `keep` or `plain`, and looks like an image, is an error, since it
    would be left unencrypted (`images.looks_like_image` has the rule; containers and texts of which nobody
    thought may still hold pictures that it does not find).

    cipher: what encrypts. Its `fit` says what becomes of images of other sizes than whole blocks.
    images: the fields that are images: positions, or names of a dict or named tuple, one or several; one
        that lies deeper by its way, "target.crop". Default: the first field, of dicts the one called image,
        img, pixel_values, png or jpg; and what else, at any depth, is an image without doubt: torchvision's,
        colour PIL images, what has a usual name, equal ones in a list (`fields.image_paths` has the rule).
    keep: fields that come out as a list, one entry a sample, untouched: boxes, masks of many sizes.
    plain: fields that look like images and are not to be encrypted, such as masks: collated as the rest. Not
        with schemes that move what an image shows (`Scheme.moves_geometry`), which masks would no longer fit.
    ids: where every image has keys of its own (`Cipher(per_image=True)`), the field that holds the id of
        each sample's images, which is collated as the rest: a number from 0, text or bytes. Images of one id
        have the same keys. Or `blockenc.DISPOSABLE`: each image has an id that is drawn at random and kept
        nowhere, so that nobody can decrypt it.
    dtype, mean, std: the output stage of `Cipher.encrypt`, in the same pass: it replaces
        ToTensor and Normalize.
    memory_format: of the batches, torch.contiguous_format or torch.channels_last.
    collate: for what is neither (default: torch.utils.data.default_collate).

    Works in workers under fork, spawn and forkserver; a pickled one holds what a pickled Cipher holds.
    Raises TypeError or ValueError that names the argument; for a batch that does not fit together, the
    sample that does not.

    >>> from torch.utils.data import DataLoader
    >>> from blockenc import Key
    >>> cipher = Cipher(Key.generate(), block_size=4)
    >>> dataset = [(np.full((32, 32, 3), n, np.uint8), n) for n in range(4)]  # images and their classes
    >>> collate = EncryptCollate(cipher, dtype=torch.float32, mean=[0.5] * 3, std=[0.25] * 3)
    >>> for x, y in DataLoader(dataset, batch_size=2, collate_fn=collate):
    ...     print(tuple(x.shape), x.dtype, y.tolist())
    (2, 3, 32, 32) torch.float32 [0, 1]
    (2, 3, 32, 32) torch.float32 [2, 3]

    >>> import blockenc
    >>> cipher = blockenc.Cipher(blockenc.Key.generate(), per_image=True)
    >>> samples = [{"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "path": f"{n}.png"} for n in range(2)]
    >>> batch = blockenc.EncryptCollate(cipher, ids="path")(samples)
    >>> torch.equal(batch["image"], blockenc.EncryptCollate(cipher, ids="path")(samples)["image"])
    True
    >>> x = blockenc.EncryptCollate(cipher, ids=blockenc.DISPOSABLE)([sample["image"] for sample in samples])
    >>> torch.equal(x[0], x[1])
    False
    """

    def __init__(
        self,
        cipher: Cipher,
        *,
        images: Field | Sequence[Field] | None = None,
        keep: Field | Sequence[Field] = (),
        plain: Field | Sequence[Field] = (),
        ids: Field | Ids | None = None,
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        cipher = hide(cipher)
        cipher = as_cipher(cipher)
        self.dtype = check_output(cipher, dtype, mean, std)
        self.cipher, self.mean, self.std = cipher, mean, std
        self.ids = given_ids(cipher, ids)
        self.images = None if images is None else given_fields(images, "images")
        self.keep, self.plain = given_fields(keep, "keep"), given_fields(plain, "plain")
        if self.images == ():
            raise ValueError("images: expected at least one field, got none")
        if both := set(self.images or ()) & {*self.keep, *self.plain}:
            name = "keep" if both & set(self.keep) else "plain"
            raise ValueError(f"{name}: {', '.join(map(repr, both))} cannot be in it, it is in images")
        if self.plain and cipher.scheme.moves_geometry:
            raise ValueError(
                f"plain: {', '.join(map(repr, self.plain))} would no longer fit the images, whose parts the "
                "scheme moves (scramble, rotate); name it in keep= if its places do not matter"
            )
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(
                f"memory_format: expected contiguous_format or channels_last, got {memory_format}"
            )
        self.memory_format = memory_format
        self.collate = collate

    def __repr__(self) -> str:
        if "collate" not in vars(self):  # shown by the traceback of an error within __init__
            return "EncryptCollate(unfinished)"
        return f"EncryptCollate({self.cipher!r}, images={self.images!r}, dtype={self.dtype})"

    def __call__(self, batch: Sequence[Any]) -> Any:
        """The batch. Raises as the class says; what `collate` raises, it raises."""
        if not len(batch):
            raise ValueError("batch: expected at least one sample, got none")
        first = batch[0]
        if is_array(first):
            if self.ids not in (None, DISPOSABLE):
                raise TypeError(
                    f"batch: expected samples with a field {self.ids!r}, the id, got images alone"
                )
            return self._encrypt(batch, "", None)
        if children(first) is None:
            raise TypeError(
                "batch: expected samples that are images, or tuples, lists or dicts that hold one, "
                f"got {type(first).__name__}"
            )
        images = self._images(first)
        kept = [_path(first, field, 0) for field in self.keep]
        columns = {path: _column(batch, path) for path in (*images, *kept)}
        ids = None
        if self.ids is not None and not isinstance(self.ids, Ids):
            ids = _column(batch, _path(first, self.ids, 0))
        # Numbers stand in for these fields, so that the containers become what torch makes of them.
        rest = []
        for number, sample in enumerate(batch):
            for path in columns:
                sample = put(sample, path, 0)
            plain = [_path(sample, field, number) for field in self.plain]
            refuse_images(
                sample,
                self.cipher.scheme.channels,
                plain,
                f"batch: sample {number}",
                "name it in images= to have it encrypted, or, if it is to stay as it is, in plain= "
                "(collated as usual) or keep= (a list, one entry a sample)",
            )
            rest.append(sample)
        result = self.collate(rest)
        if isinstance(result, (list, tuple)) and result and result[0] is rest[0]:
            raise TypeError("collate: expected it to make one batch of the samples, got the samples")
        for path, column in columns.items():
            done = self._encrypt(column, f", field {label(path)}", ids) if path in images else column
            result = put(result, path, done)
        return result

    def _images(self, sample: Any) -> list[Path]:
        """The fields to encrypt, by the first sample of a batch."""
        if self.images is not None:
            named = [_path(sample, field, 0) for field in self.images]
            return [(*path, *below) for path in named for below, _ in leaves(at(sample, path))]
        channels = self.cipher.scheme.channels
        left = [_path(sample, field, 0) for field in (*self.keep, *self.plain)]
        found = image_paths(sample, channels, left)
        usual = _path(sample, _usual_field(sample), 0)
        if children(at(sample, usual)) is None and not within(usual, left):
            return list(dict.fromkeys((usual, *found)))
        if not found:
            raise ValueError(
                f"images: say which field is the image; {label(usual)} holds none that a cipher of "
                f"{channels} channels takes"
            )
        return found

    def _encrypt(self, samples: Sequence[Any], place: str, ids: Sequence[Any] | None) -> torch.Tensor:
        stacked = self._stack(samples, place)
        if self.ids is DISPOSABLE:
            ids = drawn(len(stacked))
        encrypt = functools.partial(self.cipher.encrypt, stacked, mean=self.mean, std=self.std, ids=ids)
        if torch.float64 in (stacked.dtype, self.dtype):
            result: torch.Tensor = encrypt(dtype=self.dtype)
            return result.contiguous(memory_format=self.memory_format)
        dtype = self.cipher.result_dtype(stacked.dtype, self.dtype)
        side, fit = self.cipher.scheme.side, self.cipher.fit
        height, width = (fitted_side(pixels, side, fit) for pixels in stacked.shape[2:])
        out = _empty((*stacked.shape[:2], height, width), dtype, self.memory_format)
        result = encrypt(out=out)
        return result

    def _stack(self, samples: Sequence[Any], place: str) -> torch.Tensor:
        """The images as one tensor [N, C, H, W], of the strides that cost least."""
        first, want = samples[0], self._describe(samples[0], 0, place)
        for number, sample in enumerate(samples):
            if (got := self._describe(sample, number, place)) != want:
                raise ValueError(
                    f"batch: sample {number}{place} is {got}, sample 0 is {want}; bring the images to one "
                    "size and kind before they are collated"
                )
        if isinstance(first, torch.Tensor):
            stacked = torch.stack([sample.as_subclass(torch.Tensor) for sample in samples])
            return stacked if stacked.dim() == 4 else stacked.unsqueeze(1)
        if not isinstance(first, np.ndarray) and not hasattr(first, "getbands"):
            return torch.stack([as_tensor(sample, self.cipher.scheme.channels)[0] for sample in samples])
        arrays = [np.asarray(sample) for sample in samples]
        stacked_arrays = np.stack([array if array.ndim == 3 else array[:, :, None] for array in arrays])
        return as_tensor(stacked_arrays, self.cipher.scheme.channels)[0]

    def _describe(self, image: Any, number: int, place: str) -> str:
        """Kind, shape and dtype, in words that are equal only for images that can be stacked."""
        where, channels = f"batch: sample {number}{place}", self.cipher.scheme.channels
        if not is_array(image):
            raise TypeError(
                f"{where}: expected a PIL image, a NumPy array or a torch tensor, got {type(image).__name__} "
                "(images= names the fields that are images)"
            )
        if hasattr(image, "getbands"):
            if image.mode not in PIL_MODES:
                raise ValueError(f"{where} is a PIL image of mode {image.mode!r}; {mode_advice(image.mode)}")
            return describe(image)
        first = isinstance(image, torch.Tensor)
        grey = channels == 1 and len(image.shape) == 2
        if len(image.shape) != 3 and not grey:
            raise ValueError(
                f"{where}: expected an image {'[C, H, W]' if first else '[H, W, C]'}, "
                f"got shape {tuple(image.shape)}"
            )
        if not grey and image.shape[-3 if first else -1] != channels:
            raise channels_error(where, tuple(image.shape), channels, first)
        return describe(image)


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


def _path(sample: Any, field: Field, number: int) -> Path:
    path = find(sample, str(field))
    if path is None:
        raise ValueError(f"batch: sample {number} has no field {field!r}")
    return path


def _column(batch: Sequence[Any], path: Path) -> list[Any]:
    """One field of every sample."""
    values = []
    for number, sample in enumerate(batch):
        try:
            values.append(at(sample, path))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError(f"batch: sample {number} has no field {label(path)}") from None
    return values


def _empty(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> torch.Tensor:
    """A batch to fill; in a worker in shared memory, as default_collate has it, which saves a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype, memory_format=memory_format, device="cpu")
    meta = torch.empty(shape, dtype=dtype, memory_format=memory_format, device="meta")
    storage = torch.UntypedStorage._new_shared(meta.numel() * dtype.itemsize)
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, meta.shape, meta.stride())
