"""blockenc: block-wise image encryption that neural networks still learn from.

key = blockenc.Key.generate()
y = blockenc.encrypt(x, key)        # x: torch tensor, NumPy array, PIL image, or a DLPack array
assert (blockenc.decrypt(y, key) == x).all()
"""

from blockenc import ops as _ops  # registers torch.ops.blockenc
from blockenc.backends import backends
from blockenc.cipher import Cipher, decrypt, encrypt
from blockenc.errors import BackendError, BlockencError, KeyFileError, WrongKeyError
from blockenc.key import Key, KeySet
from blockenc.scheme import Scheme

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BlockencError",
    "Cipher",
    "Key",
    "KeyFileError",
    "KeySet",
    "Scheme",
    "WrongKeyError",
    "backends",
    "decrypt",
    "encrypt",
]

del _ops
