"""Key files: JSON holding a key or a key set under AES-256-GCM, the file's key by scrypt from a password.

Format version 1. Everything but the ciphertext is authenticated as associated data, so that a changed
parameter, salt or fingerprint is found out like a changed ciphertext. A file is read as if its writer were
hostile: every field is checked before one is used, and what scrypt may cost is bounded.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import unicodedata
from typing import Any, NamedTuple

from blockenc.errors import KeyFileError
from blockenc.files import atomic_write
from blockenc.hidden import hide, reveal


class Kind(NamedTuple):
    """What a key file holds."""

    format: str  # the value of the file's field "format"
    length: int | None  # bytes sealed; None: as many as there are
    name: str
    reader: str


KEY = Kind("blockenc-key", 32, "a key", "Key.load")
KEY_SET = Kind("blockenc-key-set", 3 * 32, "a key set", "KeySet.load")  # shuffle, np, ffx
# JSON: an object of the kinds of steps, each with its key in hexadecimal digits.
NAMED_KEYS = Kind("blockenc-named-keys", None, "a key set", "KeySet.load")
KINDS = {kind.format: kind for kind in (KEY, KEY_SET, NAMED_KEYS)}
FORMAT_VERSION = 1
# OWASP's recommendation for scrypt: 128 MiB and a few tenths of a second.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
# A file is read with its own parameters, up to twice the cost of ours. n*r*p bounds both what scrypt
# computes and what it holds: 128 bytes times n*r, and times r*p.
MAX_SCRYPT_COST = 2 * SCRYPT_N * SCRYPT_R * SCRYPT_P
MAX_FILE_BYTES = 64 * 1024
SALT_BYTES = 16
NONCE_BYTES, TAG_BYTES = 12, 16  # of AES-GCM


def scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    """32 bytes from a password (RFC 7914)."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    password = hide(password)
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(reveal(password).encode())


def check_text(text: Any, name: str) -> None:
    """Raises TypeError or ValueError unless `text` is a str that UTF-8 can encode."""
    text = hide(text)
    if not isinstance(reveal(text), str):
        raise TypeError(f"{name}: expected a str, got {type(reveal(text)).__name__}")
    # Compared, so that no UnicodeEncodeError arises: it would hold the text.
    if reveal(text).encode(errors="ignore").decode() != reveal(text):
        raise ValueError(f"{name}: expected text that UTF-8 can encode")


def check_password(password: Any, name: str = "password") -> None:
    """Raises TypeError or ValueError unless `password` is text that a key can be derived from."""
    password = hide(password)
    check_text(password, name)
    if not reveal(password):
        raise ValueError(f"{name}: expected a non-empty str")


def composed(text: str) -> str:
    """Text in Unicode's form NFC: keyboards and systems spell one accented letter in different ways."""
    text = hide(text)
    return unicodedata.normalize("NFC", reveal(text))


def save(
    kind: Kind,
    secret: bytes,
    fingerprint: str,
    path: str | os.PathLike[str],
    password: str,
    overwrite: bool,
) -> None:
    """Write `secret` to a key file; see `Key.save`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    secret, password = hide(secret), hide(password)
    check_password(password)
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    header = {
        "format": kind.format,
        "version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "kdf": {"name": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": _encode(salt)},
        "cipher": {"name": "AES-256-GCM", "nonce": _encode(nonce)},
    }
    cipher = AESGCM(scrypt(composed(password), salt, SCRYPT_N, SCRYPT_R, SCRYPT_P))
    sealed = cipher.encrypt(nonce, reveal(secret), _associated_data(header))
    text = json.dumps({**header, "ciphertext": _encode(sealed)}, indent=2) + "\n"
    atomic_write(path, text.encode(), mode=0o600, overwrite=overwrite)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a key file, all of them checked. Raises KeyFileError, or OSError."""
    with open(path, "rb") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    try:
        fields = json.loads(text) if len(text) <= MAX_FILE_BYTES else None
    except (ValueError, RecursionError):  # the latter: brackets nested thousands deep
        fields = None
    if not isinstance(fields, dict) or fields.get("format") not in list(KINDS):
        raise KeyFileError(f"{os.fspath(path)}: not a blockenc key file, or a damaged one")
    version = fields.get("version")
    if type(version) is int and version != FORMAT_VERSION:
        raise KeyFileError(
            f"{os.fspath(path)}: key file version {str(version)[:20]}; "
            f"this release reads version {FORMAT_VERSION}"
        )
    if not _well_formed(fields):
        raise KeyFileError(f"{os.fspath(path)}: damaged key file (a field is missing or malformed)")
    if not _affordable(fields["kdf"]["n"], fields["kdf"]["r"], fields["kdf"]["p"]):
        raise KeyFileError(f"{os.fspath(path)}: damaged key file (scrypt's parameters are out of range)")
    return fields


def load(path: str | os.PathLike[str], password: str, kinds: tuple[Kind, ...]) -> tuple[Kind, bytes]:
    """What a key file, of one of `kinds`, is, and the bytes sealed in it, hidden; see `Key.load`."""
    from cryptography.exceptions import InvalidTag

    password = hide(password)
    check_password(password)
    fields = read_header(path)
    kind = KINDS[fields["format"]]
    if kind not in kinds:
        raise KeyFileError(f"{os.fspath(path)}: holds {kind.name}; read it with {kind.reader}")
    try:
        try:
            return kind, hide(_unseal(fields, hide(composed(password))))
        except InvalidTag:
            if composed(password) == reveal(password):
                raise
            return kind, hide(_unseal(fields, password))  # sealed before passwords were brought into NFC
    except InvalidTag:
        raise KeyFileError(f"{os.fspath(path)}: wrong password, or the key file was altered") from None


def _well_formed(fields: dict[str, Any]) -> bool:
    """Whether the fields are those that `save` writes, of the same types and lengths."""
    try:
        kdf, cipher = fields["kdf"], fields["cipher"]
        return (
            set(fields) == {"format", "version", "fingerprint", "kdf", "cipher", "ciphertext"}
            and set(kdf) == {"name", "n", "r", "p", "salt"}
            and set(cipher) == {"name", "nonce"}
            and (kdf["name"], cipher["name"]) == ("scrypt", "AES-256-GCM")
            and all(type(number) is int for number in (fields["version"], kdf["n"], kdf["r"], kdf["p"]))
            and re.fullmatch("[0-9a-f]{16}", fields["fingerprint"]) is not None
            and len(_decode(kdf["salt"])) == SALT_BYTES
            and len(_decode(cipher["nonce"])) == NONCE_BYTES
            and KINDS[fields["format"]].length in (None, len(_decode(fields["ciphertext"])) - TAG_BYTES)
        )
    except (KeyError, TypeError, ValueError):
        return False


def _affordable(n: int, r: int, p: int) -> bool:
    """Whether scrypt takes these parameters (RFC 7914, section 6) and they cost no more than we allow."""
    if min(n, r, p) < 1 or n * r * p > MAX_SCRYPT_COST:
        return False
    return n > 1 and n & (n - 1) == 0 and n.bit_length() <= 16 * r


def _unseal(fields: dict[str, Any], password: str) -> bytes:
    """The bytes sealed in a key file. Raises InvalidTag if the password is wrong or a field was altered."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    password = hide(password)
    header = {name: value for name, value in fields.items() if name != "ciphertext"}
    kdf = header["kdf"]
    cipher = AESGCM(scrypt(password, _decode(kdf["salt"]), kdf["n"], kdf["r"], kdf["p"]))
    nonce, sealed = _decode(header["cipher"]["nonce"]), _decode(fields["ciphertext"])
    return cipher.decrypt(nonce, sealed, _associated_data(header))


def _associated_data(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
