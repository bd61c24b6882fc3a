"""Encryption as a torchvision v2 transform. The only module that imports torchvision."""

from __future__ import annotations

import copy
import warnings
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

from blockenc.cipher import Cipher, as_cipher
from blockenc.hidden import hide
from blockenc.images import as_tensor, describe, fitted_side
from blockenc.loading.collate import check_output
from blockenc.loading.fields import (
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
from blockenc.loading.ids import DISPOSABLE, Ids, drawn, given_ids

# What has a place or a size on the image that it goes with.
PLACED = tuple(
    getattr(tv_tensors, name)
    for name in ("Mask", "BoundingBoxes", "KeyPoints")  # the last since torchvision 0.23
    if hasattr(tv_tensors, name)
)


class EncryptTransform(v2.Transform):  # type: ignore[misc]
    """Encrypts the images of a sample, and passes the rest through.

    Takes what torchvision's v2 transforms take, tv_tensors.Image and Video, PIL images and plain tensors
    [..., C, H, W], and arrays [..., H, W, C], alone or anywhere in tuples, lists, dicts and dataclasses;
    a batch goes in one call. Each image comes out as the type it came in; a PIL image for which dtype,
    mean or std ask, which no PIL image can hold, as a tv_tensors.Image.

    Every image that the cipher takes is encrypted, not the first alone: two views, an array beside a
    tensor. Masks, boxes, labels come out as they are, if they are torchvision's (tv_tensors.Mask) or do
    not look like an image. What does, and is not encrypted, is an error that asks for its name, since it
    would be left unencrypted (`images.looks_like_image` has the rule); so is a sample without an image.

    cipher: what encrypts. Its `fit` says what becomes of images of other sizes than whole blocks; masks
        beside them keep their size. Resizing and cropping leave such sizes often enough: where `fit` was not
        given, images are padded with a UserWarning that says from what to what, unless masks, boxes or
        key points go with them, whose place or size would no longer be theirs: then it is an error.
    images: the fields that are images, instead of those found by their looks: positions, or names of a
        dict or named tuple, one or several; one that lies deeper by its way, "target.crop", "0.1".
    keep: fields that come out as they are, whatever they look like.
    ids: where every image has keys of its own (`Cipher(per_image=True)`), the field that holds the id of a
        sample's images; a video is one image. Or `blockenc.DISPOSABLE`: each image, and each frame, has an id
        that is drawn at random and kept nowhere, so that nobody can decrypt it.
    dtype, mean, std: the output stage of `Cipher.encrypt`, which replaces ToImage, ToDtype(scale=True) and
        Normalize in the same pass.

    Raises TypeError or ValueError naming the argument.

    >>> from blockenc import Key
    >>> cipher = Cipher(Key.generate(), block_size=4)
    >>> steps = v2.Compose([v2.RandomHorizontalFlip(), EncryptTransform(cipher, dtype=torch.float32)])
    >>> x, y = steps(tv_tensors.Image(torch.zeros(3, 32, 32, dtype=torch.uint8)), 7)
    >>> x.shape, x.dtype, y
    (torch.Size([3, 32, 32]), torch.float32, 7)
    """

    def __init__(
        self,
        cipher: Cipher,
        *,
        images: Field | Sequence[Field] | None = None,
        keep: Field | Sequence[Field] = (),
        ids: Field | Ids | None = None,
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        cipher = hide(cipher)
        super().__init__()
        cipher = as_cipher(cipher)
        self.dtype = check_output(cipher, dtype, mean, std)
        self.images = None if images is None else given_fields(images, "images")
        self.keep = given_fields(keep, "keep")
        if self.images == ():
            raise ValueError("images: expected at least one field, got none")
        if both := set(self.images or ()) & set(self.keep):
            raise ValueError(f"keep: {', '.join(map(repr, both))} cannot be in it, it is in images")
        self.cipher, self.mean, self.std = cipher, mean, std
        self.ids = given_ids(cipher, ids)
        self._padding = copy.copy(cipher)  # encrypts what `cipher` refuses for its size
        self._padding.fit = "pad"

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
        placed = any(isinstance(value, PLACED) for _, value in leaves(sample))
        if placed and self.cipher.scheme.moves_geometry:
            raise ValueError(
                "sample: has masks, boxes or key points, and the scheme moves what the image shows "
                "(scramble, rotate), so that they would no longer lie where they belong; use a scheme "
                "without such steps"
            )
        image_id = None
        if self.ids is not None and not isinstance(self.ids, Ids):
            image_id = at(sample, self._path(sample, self.ids))
        params = {"placed": placed, "id": image_id}
        result = sample
        for path in images:
            result = put(result, path, self.transform(at(sample, path), params))
        return result

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, video or array, encrypted. params: whether something is `placed` on it."""
        cipher, ids = self._cipher_for(inpt, params.get("placed", True)), params.get("id")
        if isinstance(inpt, PIL.Image.Image):
            if self.dtype is None:
                return self._encrypt(cipher, inpt, ids)
            # Not tv_tensors.Image(inpt), which would go to torch's default device.
            tensor = self._encrypt(cipher, as_tensor(inpt, cipher.scheme.channels)[0], ids)
            return tensor.as_subclass(tv_tensors.Image)
        if not isinstance(inpt, torch.Tensor):
            batch = inpt.reshape(-1, *inpt.shape[-3:]) if len(getattr(inpt, "shape", ())) > 4 else inpt
            encrypted = self._encrypt(cipher, batch, ids)
            return (
                encrypted.reshape(*inpt.shape[:-3], *encrypted.shape[-3:]) if batch is not inpt else encrypted
            )
        plain = inpt.as_subclass(torch.Tensor)
        batch = plain.flatten(0, -4) if plain.dim() > 4 else plain
        encrypted = self._encrypt(cipher, batch, ids)
        encrypted = encrypted.reshape(*plain.shape[:-2], *encrypted.shape[-2:])
        return tv_tensors.wrap(encrypted, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else encrypted

    def extra_repr(self) -> str:
        if "std" not in vars(self):  # shown by the traceback of an error within __init__
            return "unfinished"
        return f"{self.cipher!r}, dtype={self.dtype}, mean={self.mean}, std={self.std}"

    def _encrypt(self, cipher: Cipher, images: Any, image_id: Any) -> Any:
        frames = len(images) if len(getattr(images, "shape", ())) == 4 else 1
        if self.ids is DISPOSABLE:
            ids: list[Any] | None = drawn(frames)
        else:
            ids = None if image_id is None else [image_id] * frames  # a video is one image
        return cipher.encrypt(images, dtype=self.dtype, mean=self.mean, std=self.std, ids=ids)

    def _cipher_for(self, image: Any, placed: bool) -> Cipher:
        """The cipher, or one that pads, after a warning."""
        size = _size(image)
        block_size = self.cipher.scheme.side
        if self.cipher.fit_given or placed or size is None or not any(side % block_size for side in size):
            return self.cipher
        height, width = (fitted_side(side, block_size, "pad") for side in size)
        warnings.warn(
            f"EncryptTransform: {size[0]} x {size[1]} pixels (height, width) are padded to {height} x "
            f"{width}, whole blocks of {block_size} x {block_size}, by repeating the edge at the bottom and "
            'right; Cipher(fit="pad") says that this is wanted, fit="error" refuses it',
            stacklevel=4,
        )
        return self._padding

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


def _size(image: Any) -> tuple[int, int] | None:
    """Height and width; None for what is no image, which the cipher will say."""
    if isinstance(image, PIL.Image.Image):
        return image.height, image.width
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) < 2:
        return None
    channels_last = not isinstance(image, torch.Tensor) and len(shape) > 2
    return shape[-3:-1] if channels_last else shape[-2:]
