"""Writes tests/vectors/scheme_v1.json by the oracle alone: python -m tests.make_vectors"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from blockenc.reference import version1

PATH = Path(__file__).parent / "vectors" / "scheme_v1.json"
KEY = bytes(range(32))
CASES = [
    ([2, 3, 8, 12], 2, ["shuffle"], "byte"),
    ([2, 3, 8, 12], 4, ["np"], "byte"),
    ([2, 3, 8, 12], 4, ["ffx"], "byte"),
    ([3, 3, 32, 32], 4, ["shuffle", "np", "ffx"], "byte"),
    ([1, 1, 28, 28], 7, ["shuffle", "np", "ffx"], "byte"),
    ([2, 4, 32, 48], 16, ["ffx", "shuffle", "np", "shuffle"], "byte"),
    ([1, 2, 9, 15], 3, ["np", "shuffle", "np"], "byte"),
    ([1, 3, 64, 32], 32, ["shuffle", "np", "ffx"], "byte"),
    ([2, 3, 8, 12], 4, ["ffx"], "decimal"),
    ([3, 3, 32, 32], 4, ["shuffle", "np", "ffx"], "decimal"),
]


def image(shape: list[int]) -> np.ndarray:
    """image[k] = (k*k + 7*k) mod 251 over the flat NCHW index k."""
    k = np.arange(np.prod(shape), dtype=np.int64)
    return ((k * k + 7 * k) % 251).reshape(shape)


def vectors() -> dict:
    keys = dict.fromkeys(("shuffle", "np", "ffx"), KEY)
    steps = ("shuffle", "np", "ffx")
    (_, permutation), (_, np_mask), (_, ffx_mask, table) = version1.secrets(
        keys, steps=steps, block_size=2, channels=3
    )
    cases = []
    for shape, block_size, case_steps, ffx in CASES:
        found = version1.secrets(keys, steps=case_steps, block_size=block_size, channels=shape[1], ffx=ffx)
        encrypted, _ = version1.run(image(shape).transpose(0, 2, 3, 1), found, block_size=block_size, ffx=ffx)
        values = encrypted.transpose(0, 3, 1, 2).astype("u1" if ffx == "byte" else "<u2")
        cases.append(
            {
                "shape": shape,
                "block_size": block_size,
                "steps": case_steps,
                "ffx": ffx,
                "sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest(),
            }
        )
    return {
        "about": (
            "Test vectors of blockenc scheme version 1, for this library and for other implementations. "
            "key: 32 bytes, hexadecimal. The images are uint8, image[k] = (k*k + 7*k) mod 251 over the flat "
            "index k in the order N, C, H, W (shape). sha256: of the encrypted image's values in the same "
            "order, as bytes (ffx byte) or as little-endian uint16 (ffx decimal, raw values). "
            "'schedule' shows the secrets of the steps shuffle, np, ffx for 3 channels and block size 2. "
            "'decimal_password_table' is what 0..255 encipher to under the decimal profile with the "
            "password 'password'. Written by tests/make_vectors.py from blockenc/reference/version1.py alone."
        ),
        "key": KEY.hex(),
        "schedule": {
            "channels": 3,
            "block_size": 2,
            "shuffle_subkey": version1.subkey(KEY, "shuffle", 0, 3, 2).hex(),
            "permutation": permutation,
            "np_mask": [int(bit) for bit in np_mask],
            "ffx_mask": [int(bit) for bit in ffx_mask],
            "ffx_table": table,
        },
        "cases": cases,
        "decimal_password_table": [version1.ffx_decimal(b"password", v) for v in range(256)],
    }


def text() -> str:
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
