"""Protected models as safetensors files, whose metadata says what encrypts the images that they take."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from blockenc.cipher import Cipher, as_cipher
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import Folder
from blockenc.hidden import hide
from blockenc.scheme import Scheme
from blockenc.sealing.weights import SafetensorsFile

SCHEME, FINGERPRINT, VERSION = "blockenc.scheme", "blockenc.fingerprint", "blockenc.version"

Model = TypeVar("Model", bound=torch.nn.Module)


def save_protected(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    cipher: Cipher,
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model that takes images encrypted by `cipher`, such as `protect` makes, as a safetensors file.

    model: its state_dict is written, by `safetensors.torch.save_model`; tensors that share memory once.
    cipher: named in the metadata by the JSON of its scheme and the fingerprint of its key, beside the version
        of blockenc. Neither is secret: manifests and key files say both. They tell that two files belong to
        the same key; the key is not written, but see docs/protect.md for what folded weights give away.
    metadata: further texts to be written, such as the normalisation that the model takes.

    The file is written whole or not at all. Raises FileExistsError unless `overwrite`; TypeError or
    ValueError naming the argument; BlockencError where the package safetensors is missing; OSError.

    >>> import blockenc
    >>> cipher = Cipher(blockenc.Key.generate(), block_size=4, steps=["shuffle", "np"])
    >>> plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Flatten(), torch.nn.Linear(32, 2))
    >>> how = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "example": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
    >>> locked = blockenc.protect(plain, cipher, **how)
    >>> save_protected(locked, "locked.safetensors", cipher)
    >>> again = load_protected(blockenc.protect(plain, cipher, **how), "locked.safetensors", cipher)
    >>> torch.equal(again[0].weight, locked[0].weight)
    True
    """
    cipher = hide(cipher)
    cipher = as_cipher(cipher)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    said = dict(metadata or {})
    if not all(isinstance(text, str) for text in (*said, *said.values())):
        raise TypeError("metadata: expected texts by names that are texts")
    if ours := sorted(name for name in said if name.startswith("blockenc.")):
        raise ValueError(f"metadata: names that begin with blockenc. are written here, got {', '.join(ours)}")
    said = {"format": "pt", **said, **_said_of(cipher)}
    library = _library()
    target = Path(path)
    with Folder(target.parent).atomic_file(target.name, overwrite=overwrite) as file:
        library.save_model(model, os.fspath(file.name), metadata=said)
        # The library may have put a file of its own in the place of ours.
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        with open(file.name, "rb") as written:
            os.chmod(file.name, mode)
            os.fsync(written.fileno())


def load_protected(model: Model, path: str | os.PathLike[str], cipher: Cipher) -> Model:
    """Read a file of `save_protected` into a model of the same layers, which is returned.

    model: such as `protect` makes of a new plain model; its own values are lost.
    cipher: what its images will be encrypted with; the file has to name the same key and scheme.

    Raises WrongKeyError for a file of another key; ValueError for one of another scheme, or without either;
    SealError for a file that is damaged; RuntimeError, as torch does, for a model of other layers. Nothing
    here tells whether the file was altered: seal it, and call `blockenc.verify` before.
    """
    cipher = hide(cipher)
    cipher = as_cipher(cipher)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    wanted = _said_of(cipher)
    with SafetensorsFile(Path(path)) as file:
        metadata = file.metadata or {}
    if SCHEME not in metadata or FINGERPRINT not in metadata:
        raise ValueError(f"path: {os.fspath(path)} names no scheme and key: save_protected did not write it")
    if metadata[FINGERPRINT] != wanted[FINGERPRINT]:
        raise WrongKeyError(
            f"{os.fspath(path)}: of a model for the key {metadata[FINGERPRINT]!r:.40}, the key given is "
            f"{cipher.fingerprint}"
        )
    if Scheme.from_json(metadata[SCHEME]) != cipher.scheme:
        raise ValueError(
            f"path: {os.fspath(path)} is of a model for another scheme, {metadata[SCHEME]:.1000}"
        )
    _library().load_model(model, os.fspath(path))
    return model


def _said_of(cipher: Cipher) -> dict[str, str]:
    from blockenc import __version__

    if cipher.per_image:
        raise ValueError("cipher: has per_image=True, and weights hold one key")
    return {SCHEME: cipher.scheme.to_json(), FINGERPRINT: cipher.fingerprint, VERSION: __version__}


def _library() -> ModuleType:
    try:
        import safetensors.torch as library
    except ImportError:
        raise BlockencError(
            "protected models are written by safetensors: pip install 'blockenc[safetensors]'"
        ) from None
    return library
