"""The frozen vectors: written by the oracle, met by the library."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

import blockenc
from blockenc.feistel.ff1 import byte_tables
from blockenc.feistel.ffx_decimal import decimal_tables
from blockenc.keys import Key
from tests import make_vectors

VECTORS = json.loads(make_vectors.PATH.read_text())
# Facts stated with the specification itself, before any code was written: they hold the oracle in place.
SPECIFIED = {
    "43e7d4d31e04866b0565ed7d5e41d11b77e109ce725697dbe2bc74f23fdbd327",
    "4ea0fb26db1e93108a38c0d724cf7f501968f56a37f149ce021aa84af642a491",
    "7034a2e71c6c12601c5b06bf71d044259fab38b268f3a5abf3abb0e6db12675a",
    "f0311edd23d35fadcd6366e07c0b2142d7ff4dd90c2a7737e862fe63991d0515",
    "2e08546d61cf44b5c8fbfe6d0b8e6c992af5f6f35126a992c66d79899d014bc4",
    "9bf8f1440dec393388490028588e32a08487360340d2fc330a842162a0903f2a",
}


def test_the_oracle_writes_the_frozen_vectors() -> None:
    assert make_vectors.text() == make_vectors.PATH.read_text()


def test_specified_facts() -> None:
    assert {case["sha256"] for case in VECTORS["cases"]} > SPECIFIED
    schedule = VECTORS["schedule"]
    assert schedule["shuffle_subkey"] == "3b5e8d1cbc4d9169e4ef7939de6988f0c5813c8d68296e48bd4d08c06c6c6f36"
    assert schedule["permutation"] == [0, 11, 3, 8, 6, 7, 2, 4, 9, 10, 5, 1]
    assert schedule["np_mask"] == [1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1]
    assert schedule["ffx_mask"] == [1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1]
    assert schedule["ffx_table"][:8] == [159, 39, 108, 244, 189, 52, 38, 178]
    assert VECTORS["decimal_password_table"][:8] == [355, 522, 858, 133, 916, 326, 747, 930]


def test_key_schedule() -> None:
    key, schedule = Key.from_bytes(bytes.fromhex(VECTORS["key"])), VECTORS["schedule"]
    scheme = blockenc.Scheme(block_size=2)
    (shuffle,), (np_,), (ffx,) = scheme.infos(4, 4)
    assert key.keystreams([shuffle]).permutations(1, scheme.length)[0, 0].tolist() == schedule["permutation"]
    assert key.keystreams([np_]).masks(scheme.length)[0].astype(int).tolist() == schedule["np_mask"]
    assert key.keystreams([ffx]).masks(scheme.length)[0].astype(int).tolist() == schedule["ffx_mask"]
    cipher_keys = key.cipher_keys([ffx + "/cipher"], "byte")
    assert byte_tables(cipher_keys)[0].tolist() == schedule["ffx_table"]
    assert decimal_tables([b"password"])[0].tolist() == VECTORS["decimal_password_table"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["sha256"][:8])
def test_cases(case: dict, backend: str) -> None:
    x = torch.from_numpy(make_vectors.image(case["shape"]).astype(np.uint8))
    key = bytes.fromhex(VECTORS["key"])
    options = {name: case[name] for name in ("block_size", "steps", "ffx")}
    dtype = {"byte": torch.uint8, "decimal": torch.uint16}[case["ffx"]]
    y = blockenc.encrypt(x, key, **options, dtype=dtype, backend=backend)
    assert hashlib.sha256(y.numpy().tobytes()).hexdigest() == case["sha256"]
    assert torch.equal(blockenc.decrypt(y, key, **options, dtype=torch.uint8, backend=backend), x)
