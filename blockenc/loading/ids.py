"""Where the ids of images come from while data are loaded: a field of the sample, or chance."""

from __future__ import annotations

import enum
import secrets

from blockenc.cipher import Cipher
from blockenc.loading.fields import Field

BYTES = 16  # of an id drawn at random: that one of 2^48 images comes twice has a chance of 2^-33


class Ids(enum.Enum):
    """What stands in the place of a field with ids."""

    DISPOSABLE = "disposable"

    def __repr__(self) -> str:
        return self.name


DISPOSABLE = Ids.DISPOSABLE
"""For `ids=`: each image has an id that is drawn at random and kept nowhere. Nobody can decrypt it."""


def given_ids(cipher: Cipher, ids: Field | Ids | None) -> Field | Ids | None:
    """The argument `ids`. Raises TypeError where the cipher does not need it, or needs it, or it is none."""
    if cipher.per_image and ids is None:
        raise TypeError(
            "ids: expected the field that holds the id of each image, or DISPOSABLE, since the cipher has "
            "per_image=True"
        )
    if not cipher.per_image and ids is not None:
        raise TypeError("ids: goes with a Cipher with per_image=True only")
    if ids is not None and (isinstance(ids, bool) or not isinstance(ids, (int, str, Ids))):
        raise TypeError(f"ids: expected the position or name of a field, or DISPOSABLE, got {ids!r}")
    return ids


def drawn(count: int) -> list[bytes]:
    """Ids for so many images that nobody else has, and that are kept nowhere."""
    return [secrets.token_bytes(BYTES) for _ in range(count)]
