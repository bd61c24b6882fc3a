"""The order in which a key puts the channels of a feature map (docs/scheme.md: Channels of feature maps)."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from blockenc.hidden import hide
from blockenc.keys.explicit import ExplicitKey
from blockenc.keys.keyfile import check_password
from blockenc.keys.keyset import AnyKey, as_key
from blockenc.keys.keystream import Secret

MEMBER = "channels"  # of a KeySet


def channels_secret(key: AnyKey) -> Secret:
    """What of a key the orders of channels are drawn from: a Key itself, a KeySet's member `channels`.

    Raises TypeError or ValueError for what is no key, and for keys that nothing is derived from.
    """
    key = hide(key)
    found = as_key(key)
    if isinstance(found, ExplicitKey):
        raise TypeError(
            "key: expected a Key, a KeySet or 32 bytes, got an ExplicitKey, which derives nothing"
        )
    try:
        secret = found.member(MEMBER)
    except ValueError:
        raise ValueError(
            f"key: this key set has only {', '.join(found.kinds)}; give KeySet a member {MEMBER}=, or all="
        ) from None
    if not secret.derives:
        raise ValueError("key: comes from KeySet.from_seed, of which no orders of channels are derived")
    return secret


def channel_order(key: AnyKey, name: str, channels: int) -> np.ndarray:
    """int64 [channels]: channel c of the result is channel order[c] of what is given.

    One order for a key, a name and a number of channels, and independent of all others. Raises TypeError or
    ValueError for a name that is not a non-empty str, and for fewer than 2 channels.
    """
    key = hide(key)
    check_name(name)
    count = check_channels(channels)
    keystreams = channels_secret(key).keystreams([f"blockenc/channels/C={count}/{name}"])
    return np.asarray(keystreams.permutations(1, count)[0, 0])


def check_name(name: Any) -> None:
    check_password(name, "name")


def check_channels(channels: Any) -> int:
    if isinstance(channels, bool) or not hasattr(channels, "__index__"):
        raise TypeError(f"channels: expected an integer, got {type(channels).__name__}")
    if operator.index(channels) < 2:
        raise ValueError(f"channels: expected at least 2, of which there are orders, got {channels}")
    return operator.index(channels)
