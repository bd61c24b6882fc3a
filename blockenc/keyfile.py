"""Key files: JSON holding a key under AES-256-GCM, the file's key by scrypt from a password.

Format version 1. Everything but the ciphertext is authenticated as associated data, so that a changed
parameter, salt or fingerprint is found out like a changed ciphertext.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from typing import Any

from blockenc.errors import KeyFileError
from blockenc.files import atomic_write

FORMAT = "blockenc-key"
FORMAT_VERSION = 1
# OWASP's recommendation for scrypt: 128 MiB and a few tenths of a second.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
# A file is read with its own cost parameters, up to here (1 GiB): a hostile one must not exhaust memory.
MAX_SCRYPT_MEMORY = 2**30
MAX_FILE_BYTES = 64 * 1024


def scrypt(password: str, salt: bytes, n: int = SCRYPT_N, r: int = SCRYPT_R, p: int = SCRYPT_P) -> bytes:
    """32 bytes from a password (RFC 7914)."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(password.encode())


def check_password(password: object, name: str = "password") -> None:
    """Raises TypeError or ValueError unless `password` is text that a key can be derived from."""
    if not isinstance(password, str):
        raise TypeError(f"{name}: expected a str, got {type(password).__name__}")
    if not password:
        raise ValueError(f"{name}: expected a non-empty str")
    try:
        password.encode()
    except UnicodeEncodeError:  # not chained: the error holds the password
        raise ValueError(f"{name}: expected text that UTF-8 can encode") from None


def _associated_data(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def save(
    secret: bytes, fingerprint: str, path: str | os.PathLike[str], password: str, overwrite: bool
) -> None:
    """Write `secret` to a key file; see `Key.save`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    check_password(password)
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "kdf": {"name": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": _encode(salt)},
        "cipher": {"name": "AES-256-GCM", "nonce": _encode(nonce)},
    }
    sealed = AESGCM(scrypt(password, salt)).encrypt(nonce, secret, _associated_data(header))
    text = json.dumps({**header, "ciphertext": _encode(sealed)}, indent=2) + "\n"
    atomic_write(path, text.encode(), mode=0o600, overwrite=overwrite)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The public fields of a key file, checked for form. Raises KeyFileError, or OSError."""
    with open(path, "rb") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    try:
        fields = json.loads(text) if len(text) <= MAX_FILE_BYTES else None
    except (ValueError, RecursionError):  # the latter: brackets nested thousands deep
        fields = None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise KeyFileError(f"{os.fspath(path)}: not a blockenc key file, or a damaged one")
    if fields.get("version") != FORMAT_VERSION:
        raise KeyFileError(
            f"{os.fspath(path)}: key file version {fields.get('version')!r}; "
            f"this release reads version {FORMAT_VERSION}"
        )
    return fields


def load(path: str | os.PathLike[str], password: str) -> bytes:
    """The 32 bytes in a key file; see `Key.load`."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    check_password(password)
    header = read_header(path)
    try:
        sealed = _decode(header.pop("ciphertext"))
        kdf, cipher = header["kdf"], header["cipher"]
        if kdf["name"] != "scrypt" or cipher["name"] != "AES-256-GCM":
            raise ValueError("unknown algorithm")
        cost = {name: int(kdf[name]) for name in ("n", "r", "p")}
        if min(cost.values()) < 1 or 128 * cost["n"] * cost["r"] * cost["p"] > MAX_SCRYPT_MEMORY:
            raise ValueError("key derivation parameters out of range")
        file_key = scrypt(password, _decode(kdf["salt"]), **cost)
        secret = AESGCM(file_key).decrypt(_decode(cipher["nonce"]), sealed, _associated_data(header))
    except InvalidTag:
        raise KeyFileError(f"{os.fspath(path)}: wrong password, or the key file was altered") from None
    except (KeyError, TypeError, ValueError, OverflowError):  # the last: JSON's Infinity as a cost
        raise KeyFileError(f"{os.fspath(path)}: damaged key file (a field is missing or malformed)") from None
    if len(secret) != 32:
        raise KeyFileError(f"{os.fspath(path)}: damaged key file (the key has a wrong length)")
    return secret


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
