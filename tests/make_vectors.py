"""Writes tests/vectors by the oracle alone: python -m tests.make_vectors

scheme_v1.json, scheme_v2_all.json and channels.json, that is; scheme_v2.json came with the definition of
version 2.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blockenc.reference import version1, version2
from tests.schemes import CHOICES, DTYPES, NOTABLE, Case, scheme_of, step

PATH = Path(__file__).parent / "vectors" / "scheme_v1.json"
PATH_V2 = PATH.with_name("scheme_v2_all.json")
PATH_CHANNELS = PATH.with_name("channels.json")
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


# --- version 2 ----------------------------------------------------------------------------------

ABOUT_V2 = (
    "Test vectors of blockenc scheme version 2, for this library and for other implementations. key: 32 "
    "bytes, hexadecimal, of all kinds of steps. derived: the key that key.derive(name) gives. Images have "
    "the shape [N, C, H, W] and the type dtype; k is the flat index in this order and q = k*k + 7*k. "
    "uint8: q mod 251. uint16: q mod 1021. Floats: (q mod 251)/255 where k is even, else (q mod "
    "1021)/1020, in float32, then rounded to the type. They are encrypted, or decrypted as they are, into "
    "the type 'result'; floats by the output stage, with mean and std where given. ids_hex: the ids of "
    "the images, hexadecimal, where each has a key of its own. first: the first 8 values of the result. "
    "sha256: of the result in the same order, little-endian. 'schedule' shows the infos of the subkeys "
    "and the secrets of a small scheme, with and without an id. Written by tests/make_vectors.py from "
    "blockenc/reference/version2.py alone."
)


def image_of_type(shape: list[int], dtype: str) -> np.ndarray:
    """The images of version 2's vectors [N, C, H, W], floats as float32 values of their type."""
    if dtype == "uint8":
        return image(shape)
    k = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    square = k * k + 7 * k
    if dtype == "uint16":
        return square % 1021
    of_bytes = (square % 251).astype(np.float32) / np.float32(255)
    others = (square % 1021).astype(np.float32) / np.float32(1020)
    return version1.round_to(np.where(k % 2 == 0, of_bytes, others), dtype)


def in_memory(values: np.ndarray, dtype: str) -> bytes:
    """Values as little-endian memory of their type; bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype(
        {"uint8": "u1", "uint16": "<u2", "float32": "<f4", "float16": "<f2"}[dtype]
    ).tobytes()


def cases_of(name: str, case: Case, result: str | None = None, **options: list[float]) -> Iterator[dict]:
    """Both directions of a case, or the one to `result`. What is decrypted need not be an encryption."""
    whole = "uint16" if case.decimal else "uint8"
    fields = {"name": name, "shape": list(case.shape), "scheme": case.scheme}
    if case.ids is not None:
        fields["ids_hex"] = [version2.id_bytes(image_id).hex() for image_id in case.ids]
    encrypted = whole if case.dtype == "uint8" else case.dtype
    yield {**fields, "decrypt": False, "dtype": case.dtype, "result": result or encrypted, **options}
    if result is None:
        yield {**fields, "decrypt": True, "dtype": encrypted, "result": case.dtype}


def all_cases() -> Iterator[dict]:
    for kind, choices in CHOICES.items():
        for values in itertools.product(*choices.values()):
            for period in (2, 4, "image"):
                fields = {**dict(zip(choices, values)), "period": period}
                name = ", ".join([kind, *values, f"period {period}"])
                yield from cases_of(name, Case(scheme_of(2, 3, step(kind, **fields)), (2, 3, 12, 20)))
    for (name, case), dtype in itertools.product(NOTABLE.items(), DTYPES):
        yield from cases_of(name, Case(case.scheme, case.shape, dtype, case.ids))
    whole = {"period": "image"}
    every = scheme_of(
        6,
        4,
        step("np", cells="nibble", block_size=3, **whole),
        step("colour", unit="pixel", period=12),
        step("ffx", block_size=2, period=4),
        step("rotate", block_size=4, **whole),
        step("shuffle", cells="nibble", block_size=1, period=3),
        step("scramble", block_size=4),
        step("scramble", **whole),
    )
    decimal = scheme_of(
        4,
        3,
        step("ffx", period=8),
        step("np", cells="nibble", unit="block", **whole),
        step("ffx", profile="decimal", **whole),
        step("rotate", **whole),
    )
    ids: list = [0, 2**64, "\u00e4", b"\x00", b""]
    for dtype in DTYPES:
        yield from cases_of("every kind", Case(every, (1, 4, 24, 36), dtype))
        yield from cases_of("every kind, a key for each image", Case(every, (5, 4, 12, 24), dtype, ids))
        yield from cases_of("two ffx, one decimal", Case(decimal, (1, 3, 16, 24), dtype))
        yield from cases_of(
            "two ffx, one decimal, a key for each image", Case(decimal, (5, 3, 8, 16), dtype, ids)
        )
    odd = scheme_of(3, 2, step("scramble", **whole), step("rotate", **whole), step("colour", **whole))
    yield from cases_of("two channels, 3 x 5 blocks of 3", Case(odd, (1, 2, 9, 15)))
    yield from cases_of("one block", Case(scheme_of(5, 3, step("shuffle", **whole)), (2, 3, 5, 5)))
    output = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for name in ("ETC", "LE", "decimal, moved"):
        for dtype in DTYPES[1:]:
            case = NOTABLE[name]
            yield from cases_of(f"{name}, normalised", case, dtype, **output)


def run_case(case: dict) -> np.ndarray:
    """What the oracle makes of the image of a case, [N, C, H, W], in the result's type."""
    x = image_of_type(case["shape"], case["dtype"]).transpose(0, 2, 3, 1)
    keys = dict.fromkeys(CHOICES, KEY)
    ids = [bytes.fromhex(image_id) for image_id in case["ids_hex"]] if "ids_hex" in case else None
    values, scale = version2.encrypt(x, keys, case["scheme"], ids, case["decrypt"], case["dtype"])
    if case["result"] not in ("uint8", "uint16"):
        values = version1.output(values, scale, case["result"], case.get("mean"), case.get("std"))
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def text_v2() -> str:
    every = scheme_of(2, 3, *(step(kind, period="image") for kind in CHOICES))
    top = {
        "about": ABOUT_V2,
        "key": KEY.hex(),
        "derived": {"name": "cifar-10", "key": version2.derived(KEY, "cifar-10").hex()},
    }
    schedule = []
    for image_id in (None, b"a"):
        found = version2.secrets(dict.fromkeys(CHOICES, KEY), every, 4, 6, image_id)
        schedule.append(
            {
                "scheme": every,
                "height": 4,
                "width": 6,
                "id_hex": None if image_id is None else image_id.hex(),
                "infos": [version2.info_of(every, n, 4, 6, image_id) for n in range(len(CHOICES))],
                "secrets": [{**item, "secret": as_numbers(item["secret"])} for item in found],
            }
        )
    cases = []
    for case in all_cases():
        result = run_case(case)
        digest = hashlib.sha256(in_memory(result, case["result"])).hexdigest()
        cases.append({**case, "first": result.ravel()[:8].tolist(), "sha256": digest})
    return one_item_a_line({**top, "schedule": schedule, "cases": cases})


def as_numbers(secret: list | tuple | bool | int) -> list | int:
    return [as_numbers(item) for item in secret] if isinstance(secret, (list, tuple)) else int(secret)


def one_item_a_line(fields: dict) -> str:
    """JSON with each item of the lists on a line of its own, so that a change shows which one it is."""
    parts = []
    for name, value in fields.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(item) for item in value)
            parts.append(f"{json.dumps(name)}: [\n{lines}\n]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


# --- channels of feature maps -------------------------------------------------------------------

ABOUT_CHANNELS = (
    "Test vectors of the channels of feature maps (docs/scheme.md, 'Channels of feature maps'). key: 32 "
    "bytes, hexadecimal. order: channel c of the result is channel order[c]. Written by "
    "tests/make_vectors.py from blockenc/reference/version2.py alone."
)
CHANNELS = (("layer1", 16), ("layer1", 2), ("layer2", 16), ("backbone.layer4.1.bn2", 64), ("\u00e4/C=3", 7))


def text_channels() -> str:
    orders = [
        {"name": name, "channels": channels, "order": version2.channel_order(KEY, name, channels)}
        for name, channels in CHANNELS
    ]
    return one_item_a_line({"about": ABOUT_CHANNELS, "key": KEY.hex(), "orders": orders})


if __name__ == "__main__":
    PATH_CHANNELS.write_text(text_channels())
    PATH.write_text(text())
    PATH_V2.write_text(text_v2())
