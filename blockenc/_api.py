"""encrypt and decrypt in one call. The ciphers they make are kept with their key, and go with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from blockenc.cipher import Cipher, Dtype, Fit, ImageId, keep, scheme_of
from blockenc.hidden import hide
from blockenc.images import channels_of
from blockenc.keys import AnyKey
from blockenc.keys.key import AnySecret
from blockenc.scheme import Scheme
from blockenc.steps import Step


def encrypt(
    x: Any,
    key: AnyKey,
    *,
    scheme: Scheme | None = None,
    block_size: int | None = None,
    steps: Sequence[str | Step] | None = None,
    channels: int | None = None,
    ffx: Literal["byte", "decimal"] | None = None,
    ids: Sequence[ImageId] | ImageId | None = None,
    backend: str | None = None,
    check_values: bool = True,
    fit: Fit | None = None,
    out: torch.Tensor | None = None,
    dtype: Dtype | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Any:
    """Encrypt images; `Cipher.encrypt` in one call. What is compiled is kept as long as the key is.

    x: images, of any kind that `Cipher.encrypt` takes.
    key: a Key, a KeySet, an ExplicitKey or 32 bytes.
    scheme: a Scheme; or its fields: block_size (default 4), steps (default shuffle, np, ffx), ffx, and
        channels, which come from x unless given. An x of other than 1, 3 or 4 channels needs channels=,
        since its shape may as well be that of many images; only a NumPy array [N, S, S] is taken for N
        square grey images.
    ids: an id for each image, which then has keys of its own (`Cipher(per_image=True)`).
    backend, check_values, fit: as for `Cipher`. out, dtype, mean, std: as for `Cipher.encrypt`.

    Raises TypeError or ValueError naming the argument.

    >>> import numpy as np
    >>> from blockenc import Key
    >>> key, x = Key.generate(), np.zeros((2, 32, 32, 3), np.uint8)
    >>> y = encrypt(x, key)
    >>> y.shape, y.dtype, bool((decrypt(y, key) == x).all())
    ((2, 32, 32, 3), dtype('uint8'), True)
    """
    key = hide(key)
    fields = {"block_size": block_size, "steps": steps, "channels": channels, "ffx": ffx}
    cipher = _cipher(x, key, scheme, fields, ids is not None, backend, check_values, fit)
    return cipher.encrypt(x, out=out, dtype=dtype, mean=mean, std=std, ids=ids)


def decrypt(
    y: Any,
    key: AnyKey,
    *,
    scheme: Scheme | None = None,
    block_size: int | None = None,
    steps: Sequence[str | Step] | None = None,
    channels: int | None = None,
    ffx: Literal["byte", "decimal"] | None = None,
    ids: Sequence[ImageId] | ImageId | None = None,
    backend: str | None = None,
    check_values: bool = True,
    fit: Fit | None = None,
    out: torch.Tensor | None = None,
    dtype: Dtype | None = None,
    size: tuple[int, int] | None = None,
) -> Any:
    """Decrypt images; `Cipher.decrypt` in one call. What is compiled is kept as long as the key is.

    The arguments are those of `encrypt`, and size: (height, width) before padding, of images that fit="pad"
    padded.

    >>> import torch
    >>> from blockenc import Key
    >>> key, x = Key.generate(), torch.zeros(3, 30, 30, dtype=torch.uint8)
    >>> torch.equal(decrypt(encrypt(x, key, fit="pad"), key, size=(30, 30)), x)
    True
    """
    key = hide(key)
    fields = {"block_size": block_size, "steps": steps, "channels": channels, "ffx": ffx}
    cipher = _cipher(y, key, scheme, fields, ids is not None, backend, check_values, fit)
    return cipher.decrypt(y, out=out, dtype=dtype, size=size, ids=ids)


def _cipher(
    x: Any,
    key: AnyKey,
    scheme: Scheme | None,
    fields: dict[str, Any],
    per_image: bool,
    backend: str | None,
    check_values: bool,
    fit: Fit | None,
) -> Cipher:
    key = hide(key)
    if scheme is None and fields["channels"] is None:
        fields["channels"] = channels_of(x)
    scheme = scheme_of(scheme, **fields)
    options = (scheme, per_image, backend, check_values, fit)
    kept: dict[tuple, Cipher] = key.kept if isinstance(key, AnySecret) else {}
    cipher = kept.get(options)
    if cipher is None:
        cipher = Cipher(key, scheme, per_image=per_image, backend=backend, check_values=check_values, fit=fit)
        keep(kept, options, cipher)
    return cipher
