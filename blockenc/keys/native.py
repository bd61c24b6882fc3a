"""Where many keys at once are worked on: the extension, by the libcrypto that Python's own hashlib uses; else
Python, through `hmac` and `cryptography`. Both give the same numbers.

The extension is not linked with libcrypto, of which every system has its own: it looks for it when this
module is imported. Without it, as without the extension, keys of images are derived several times slower.
"""

from __future__ import annotations

from typing import Any

import torch

extension: Any
try:
    from blockenc import _native as extension  # type: ignore[attr-defined, no-redef]
except ImportError:
    extension = None


def missing() -> str:
    """Why the extension cannot derive keys and draw from them; "" if it can."""
    if extension is None:
        return "the extension is not built"
    try:
        import _hashlib
    except ImportError:
        return "this Python has no OpenSSL"
    # It has no file where it is a part of the interpreter.
    return str(extension.find_libcrypto(getattr(_hashlib, "__file__", None)))


derives = not missing()


def threads() -> int:
    """As many as the kernels use."""
    return torch.get_num_threads()
