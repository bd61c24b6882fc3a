"""blockenc: block-wise image encryption that neural networks still learn from.

key = blockenc.Key.generate()
y = blockenc.encrypt(x, key)        # x: torch tensor, NumPy array, PIL image, or a DLPack array
assert (blockenc.decrypt(y, key) == x).all()
"""

from typing import TYPE_CHECKING, Any

from blockenc import ops as _ops  # registers torch.ops.blockenc
from blockenc import schemes, steps
from blockenc._api import decrypt, encrypt
from blockenc.backends import backends
from blockenc.cipher import Cipher
from blockenc.errors import BackendError, BlockencError, KeyFileError, SealError, WrongKeyError
from blockenc.keys import ExplicitKey, Key, KeySet
from blockenc.scheme import Scheme

if TYPE_CHECKING:
    from blockenc import attacks, nn
    from blockenc.folding.features import protect_features, unprotect_features
    from blockenc.folding.stems import protect, unprotect
    from blockenc.loading.collate import EncryptCollate
    from blockenc.loading.ids import DISPOSABLE
    from blockenc.loading.transform import EncryptTransform
    from blockenc.sealing.api import seal, verify

__version__ = "0.1.0"

__all__ = [
    "DISPOSABLE",
    "BackendError",
    "BlockencError",
    "Cipher",
    "EncryptCollate",
    "EncryptTransform",
    "ExplicitKey",
    "Key",
    "KeyFileError",
    "KeySet",
    "Scheme",
    "SealError",
    "WrongKeyError",
    "attacks",
    "backends",
    "decrypt",
    "encrypt",
    "nn",
    "protect",
    "protect_features",
    "schemes",
    "seal",
    "steps",
    "unprotect",
    "unprotect_features",
    "verify",
]

# Imported when first asked for: users of DataLoader, torchvision, torch.nn, seals and attacks pay for them,
# others do not.
_LAZY = {
    "DISPOSABLE": ("blockenc.loading.ids", "DISPOSABLE"),
    "EncryptCollate": ("blockenc.loading.collate", "EncryptCollate"),
    "EncryptTransform": ("blockenc.loading.transform", "EncryptTransform"),
    "attacks": ("blockenc.attacks", None),
    "nn": ("blockenc.nn", None),
    "protect": ("blockenc.folding.stems", "protect"),
    "protect_features": ("blockenc.folding.features", "protect_features"),
    "seal": ("blockenc.sealing.api", "seal"),
    "unprotect": ("blockenc.folding.stems", "unprotect"),
    "unprotect_features": ("blockenc.folding.features", "unprotect_features"),
    "verify": ("blockenc.sealing.api", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'blockenc' has no attribute {name!r}")
    import importlib

    module, attribute = _LAZY[name]
    value = importlib.import_module(module)
    if attribute:
        value = globals()[name] = getattr(value, attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


del _ops
