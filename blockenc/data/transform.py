"""Encryption as a torchvision v2 transform. The only module that imports torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2
except ImportError as error:
    raise ImportError(
        f"EncryptTransform needs torchvision 0.21 or newer ({error}): pip install torchvision"
    ) from None

from blockenc.cipher import Cipher
from blockenc.data.collate import check_output
from blockenc.data.fields import (
    Field,
    Path,
    at,
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
from blockenc.kinds import as_tensor, describe


class EncryptTransform(v2.Transform):  # type: ignore[misc]
    """Encrypts the images of a sample, and passes the rest through.

    Takes what torchvision's v2 transforms take, tv_tensors.Image and Video, PIL images and plain tensors
    [..., C, H, W], and arrays [..., H, W, C], alone or anywhere in tuples, lists, dicts and dataclasses;
    a batch goes in one call. Each image comes out as the type it came in; a PIL image for which dtype,
    mean or std ask, which no PIL image can hold, as a tv_tensors.Image.

    Every image that the cipher takes is encrypted, not the first alone: two views, an array beside a
    tensor. Masks, boxes, labels come out as they are, if they are torchvision's (tv_tensors.Mask) or do
    not look like an image. What does, and is not encrypted, is an error that asks for its name, since it
    would be left unencrypted (`kinds.looks_like_image` has the rule); so is a sample without an image.

    cipher: what encrypts. Its `fit` says what becomes of images of other sizes than whole blocks; masks
        beside them keep their size.
    images: the fields that are images, instead of those found by their looks: positions, or names of a
        dict or named tuple, one or several; one that lies deeper by its way, "target.crop", "0.1".
    keep: fields that come out as they are, whatever they look like.
    dtype, mean, std: the output stage of `Cipher.encrypt`, which replaces ToImage, ToDtype(scale=True) and
        Normalize in the same pass.

    Raises TypeError or ValueError naming the argument.
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
    ) -> None:
        super().__init__()
        self.dtype = check_output(cipher, dtype, mean, std)
        self.images = None if images is None else given_fields(images, "images")
        self.keep = given_fields(keep, "keep")
        if self.images == ():
            raise ValueError("images: expected at least one field, got none")
        if both := set(self.images or ()) & set(self.keep):
            raise ValueError(f"keep: {', '.join(map(repr, both))} cannot be in it, it is in images")
        self.cipher, self.mean, self.std = cipher, mean, std

    def forward(self, *inputs: Any) -> Any:
        """The sample, its images encrypted: one value for one, a tuple for several."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        kept = [self._path(sample, field) for field in self.keep]
        images = self._images(sample, kept)
        refuse_images(
            sample,
            self.cipher.scheme.channels,
            [*kept, *images],
            "sample",
            "name it in images= to have it encrypted, or in keep= to let it through as it is",
        )
        result = sample
        for path in images:
            result = put(result, path, self.transform(at(sample, path), {}))
        return result

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, video or array, encrypted."""
        if isinstance(inpt, PIL.Image.Image):
            if self.dtype is None:
                return self.cipher.encrypt(inpt)
            # Not tv_tensors.Image(inpt), which would go to torch's default device.
            tensor = self._encrypt(as_tensor(inpt, self.cipher.scheme.channels)[0])
            return tensor.as_subclass(tv_tensors.Image)
        if not isinstance(inpt, torch.Tensor):
            batch = inpt.reshape(-1, *inpt.shape[-3:]) if len(getattr(inpt, "shape", ())) > 4 else inpt
            encrypted = self._encrypt(batch)
            return (
                encrypted.reshape(*inpt.shape[:-3], *encrypted.shape[-3:]) if batch is not inpt else encrypted
            )
        plain = inpt.as_subclass(torch.Tensor)
        batch = plain.flatten(0, -4) if plain.dim() > 4 else plain
        encrypted = self._encrypt(batch)
        encrypted = encrypted.reshape(*plain.shape[:-2], *encrypted.shape[-2:])
        return tv_tensors.wrap(encrypted, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else encrypted

    def extra_repr(self) -> str:
        return f"{self.cipher!r}, dtype={self.dtype}, mean={self.mean}, std={self.std}"

    def _encrypt(self, images: Any) -> Any:
        return self.cipher.encrypt(images, dtype=self.dtype, mean=self.mean, std=self.std)

    def _images(self, sample: Any, kept: list[Path]) -> list[Path]:
        """The fields to encrypt."""
        if self.images is not None:
            named = [self._path(sample, field) for field in self.images]
            found = [(*path, *below) for path in named for below, _ in leaves(at(sample, path))]
            for path in found:
                if not is_array(value := at(sample, path)):
                    raise TypeError(
                        f"sample, field {label(path)}: expected a PIL image, an array or a tensor, "
                        f"got {type(value).__name__}"
                    )
            return found
        if found := image_paths(sample, self.cipher.scheme.channels, kept):
            return found
        # None that the cipher takes: the first that could be meant, which it then refuses in its own words.
        arrays = [
            (path, value) for path, value in leaves(sample) if is_array(value) and not within(path, kept)
        ]
        ranks = [
            [path for path, value in arrays if isinstance(value, (tv_tensors.Image, tv_tensors.Video))],
            [path for path, value in arrays if isinstance(value, PIL.Image.Image)],
            [path for path, value in arrays if not isinstance(value, tv_tensors.TVTensor)],
        ]
        for paths in ranks:
            if paths:
                return paths[:1]
        raise ValueError(f"sample: expected an image to encrypt, found none in {describe(sample)}")

    def _path(self, sample: Any, field: Field) -> Path:
        path = find(sample, str(field))
        if path is None:
            raise ValueError(f"sample: has no field {field!r}")
        return path
