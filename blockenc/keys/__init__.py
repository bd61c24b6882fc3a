"""Secrets: keys, key sets, explicit secrets, the key schedule and the key file."""

from blockenc.keys.explicit import ExplicitKey
from blockenc.keys.key import Key
from blockenc.keys.keyset import AnyKey, KeySet, as_key, load_key

__all__ = ["AnyKey", "ExplicitKey", "Key", "KeySet", "as_key", "load_key"]
