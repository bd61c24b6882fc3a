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


class EncryptTransform(v2.Transform):  # type: ignore[misc]
    """Encrypts the images of a sample, as torchvision's v2 transforms do, and passes the rest through.

    Takes what they take: a tv_tensors.Image or Video, a PIL image, or, where there is none of these, the
    first plain tensor; alone or anywhere in tuples, lists and dicts. Shapes are [..., C, H, W], so a
    batch goes in one call. Masks, boxes, labels come out as they are. Each image comes out as the type
    it came in; a PIL image for which dtype, mean or std ask, which no PIL image can hold, as a
    tv_tensors.Image.

    cipher: what encrypts. dtype, mean, std: the output stage of `Cipher.encrypt`, which replaces
    ToImage, ToDtype(scale=True) and Normalize in the same pass.

    Raises TypeError or ValueError naming the argument.
    """

    _transformed_types = (tv_tensors.Image, tv_tensors.Video, PIL.Image.Image, v2.functional.is_pure_tensor)

    def __init__(
        self,
        cipher: Cipher,
        *,
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.dtype = check_output(cipher, dtype, mean, std)
        self.cipher, self.mean, self.std = cipher, mean, std

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, video or plain tensor, encrypted."""
        if isinstance(inpt, PIL.Image.Image):
            if self.dtype is None:
                return self.cipher.encrypt(inpt)
            inpt = tv_tensors.Image(inpt)
        plain = inpt.as_subclass(torch.Tensor)
        batch = plain.flatten(0, -4) if plain.dim() > 4 else plain
        encrypted = self.cipher.encrypt(batch, dtype=self.dtype, mean=self.mean, std=self.std)
        return (
            tv_tensors.wrap(encrypted.reshape(plain.shape), like=inpt)
            if isinstance(inpt, tv_tensors.TVTensor)
            else encrypted.reshape(plain.shape)
        )

    def extra_repr(self) -> str:
        return f"{self.cipher!r}, dtype={self.dtype}, mean={self.mean}, std={self.std}"
