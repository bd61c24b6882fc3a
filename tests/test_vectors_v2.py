"""The frozen vectors of scheme version 2: those of its definition, and all that the oracle wrote."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from blockenc.reference import version2
from tests import make_vectors

# What came with the definition, before any code was written: it holds the oracle in place.
SPECIFIED = json.loads(make_vectors.PATH.with_name("scheme_v2.json").read_text())
VECTORS = json.loads(make_vectors.PATH_V2.read_text())


@pytest.mark.parametrize("case", SPECIFIED["cases"], ids=lambda case: case["name"])
def test_the_definition(case: dict) -> None:
    keys = dict.fromkeys(version2.PARAMETERS, bytes.fromhex(SPECIFIED["key"]))
    scheme = {"block_size": case["block_size"], "channels": case["shape"][1], "steps": case["steps"]}
    ids = [bytes.fromhex(image_id) for image_id in case["ids_hex"]] if "ids_hex" in case else None
    x = make_vectors.image(case["shape"]).transpose(0, 2, 3, 1)
    y, scale = version2.encrypt(x, keys, scheme, ids)
    encrypted = np.ascontiguousarray(y.transpose(0, 3, 1, 2)).astype("u1").tobytes()
    assert scale == 255
    assert list(encrypted[:16]) == case["first"]
    assert hashlib.sha256(encrypted).hexdigest() == case["sha256"]
    back, _ = version2.encrypt(y, keys, scheme, ids, decrypt=True)
    assert np.array_equal(back, x)


def test_the_oracle_writes_the_frozen_vectors() -> None:
    written = make_vectors.text_v2()
    for want, got in zip(VECTORS["cases"], json.loads(written)["cases"]):
        assert got == want
    assert written == make_vectors.PATH_V2.read_text()


def test_vectors_differ() -> None:
    """No two encryptions agree, so each pins what it says; save where one block a period changes nothing: of
    one block half, rounded down, is negated, and one block has one order."""
    names: dict[str, list[str]] = {}
    for case in VECTORS["cases"]:
        if not case["decrypt"]:
            names.setdefault(case["sha256"], []).append(case["name"])
    nothing = ["np, byte, block, period 2", "np, nibble, block, period 2", "scramble, period 2"]
    assert [same for same in names.values() if len(same) > 1] == [nothing]
