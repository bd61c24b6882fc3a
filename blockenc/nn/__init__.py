"""Modules for models: encryption as a first layer, stems that absorb a key, keyed channels; `protect`."""

from typing import TYPE_CHECKING, Any

from blockenc.nn.channels import KeyedChannels
from blockenc.nn.embedding import BlockEmbedding
from blockenc.nn.encrypt import Encrypt
from blockenc.nn.saving import load_protected, save_protected

if TYPE_CHECKING:
    from blockenc.folding.features import protect_features, unprotect_features
    from blockenc.folding.stems import protect, unprotect

# Imported when asked for: blockenc.folding is made of modules of this package, and may be imported first.
_LAZY = {
    "protect": "stems",
    "protect_features": "features",
    "unprotect": "stems",
    "unprotect_features": "features",
}

__all__ = [
    "BlockEmbedding",
    "Encrypt",
    "KeyedChannels",
    "load_protected",
    "protect",
    "protect_features",
    "save_protected",
    "unprotect",
    "unprotect_features",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'blockenc.nn' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"blockenc.folding.{_LAZY[name]}"), name)
