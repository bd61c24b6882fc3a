"""Modules for models: encryption as a first layer, stems that absorb a key, `protect`, and its files."""

from typing import TYPE_CHECKING, Any

from blockenc.nn.embedding import BlockEmbedding
from blockenc.nn.encrypt import Encrypt
from blockenc.nn.saving import load_protected, save_protected

if TYPE_CHECKING:
    from blockenc.folding.stems import protect, unprotect

__all__ = ["BlockEmbedding", "Encrypt", "load_protected", "protect", "save_protected", "unprotect"]


def __getattr__(name: str) -> Any:
    # When asked for: blockenc.folding is made of modules of this package, and may be what is imported first.
    if name not in ("protect", "unprotect"):
        raise AttributeError(f"module 'blockenc.nn' has no attribute {name!r}")
    from blockenc.folding import stems

    return getattr(stems, name)
