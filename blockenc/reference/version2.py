"""The oracle: scheme version 2, step by step, in plain NumPy.

This file is the executable form of version 2 in ``docs/scheme.md``, as `version1` is of version 1, of which
it uses the key schedule, the ciphers and the rounding. It is written to be read, not to be fast: it builds
no plan and applies the steps one after the other. Every backend is compared with it, exactly.

Images are arrays ``[N, H, W, C]``. A scheme is the dict that its JSON form gives::

    {"version": 2, "block_size": 16, "channels": 3,
     "steps": [{"kind": "np", "unit": "block", "period": "image"}, {"kind": "scramble", "period": "image"}]}

Inside a step, an image is an array ``[Q, G, l]``: Q periods, each of G blocks in row-major order, each a
block vector of l = b*b*C values. All periods are treated alike, so a secret speaks of one period:

| kind | its secret |
| --- | --- |
| shuffle | G permutations of the l values (2l nibbles) of a block |
| np | a mask over the G*l values (G*2l nibbles), or over the G blocks |
| ffx | a mask over the G*l values, and the 256 values of E |
| colour | a number 0..C!-1 for each of the G blocks, or of the G*b*b pixels |
| rotate | a number 0..7 for each of the G blocks |
| scramble | a permutation of the G blocks |

How this file reads what the definition leaves open:

- A scheme's own `block_size` is only what steps without one take. So a scheme is one that version 1 can
  express if its steps are shuffle, np and ffx alone, of bytes and single values, all of one block size that
  is also their period, and its ffx steps have one profile.
- The period "image" is never that, even for an image of one block: whether a scheme is version 1 does not
  depend on the image.
- The texts that are bound write every parameter of the step's kind, defaults too (but not fixed at 0), and
  b and P as they result.
- An id that is an int is at least 0. 7, "7" and b"7" are one id. The empty id is an id.
- colour needs uniform(C!), so at most 12 channels: 13! is beyond the 32-bit words that uniform draws.
- np of nibbles and whole blocks is np of bytes and whole blocks, except that floats become integers first.
- A byte ffx may come before a decimal one. Floats are then treated as in every scheme with a decimal ffx.
- With per-image keys and a decimal ffx, m, the largest value of E, is each image's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blockenc.reference import version1
from blockenc.reference.version1 import output as output  # the same output stage

# The parameters of each kind in the order of the table, with what each may be; the first is the default.
PARAMETERS: dict[str, dict[str, tuple[str, ...]]] = {
    "shuffle": {"cells": ("byte", "nibble")},
    "np": {"cells": ("byte", "nibble"), "unit": ("value", "block")},
    "ffx": {"profile": ("byte", "decimal")},
    "colour": {"unit": ("block", "pixel")},
    "rotate": {},
    "scramble": {},
}
# The kinds whose permutations may leave positions in place: "fixed", how many, is their last parameter.
WITH_FIXED = ("shuffle", "scramble")
MAX_COLOUR_CHANNELS = 12


# --- what a scheme says -------------------------------------------------------------------------


def steps_of(scheme: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps with every field written out: kind, its parameters, block_size, period (a number or "image").

    Raises ValueError on what version 2 does not define.
    """
    if scheme.get("version", 2) != 2:
        raise ValueError(f"version: expected 2, got {scheme['version']!r}")
    channels = scheme.get("channels", 3)
    steps: list[dict[str, Any]] = []
    for n, given in enumerate(scheme["steps"]):
        kind = given["kind"]
        if kind not in PARAMETERS:
            raise ValueError(f"steps[{n}]: expected a kind out of {', '.join(PARAMETERS)}, got {kind!r}")
        step = {"kind": kind}
        for name, choices in PARAMETERS[kind].items():
            step[name] = given.get(name, choices[0])
            if step[name] not in choices:
                raise ValueError(f"steps[{n}].{name}: expected one of {choices}, got {step[name]!r}")
        if kind in WITH_FIXED:
            step["fixed"] = given.get("fixed", 0)
            if type(step["fixed"]) is not int or step["fixed"] < 0:
                raise ValueError(f"steps[{n}].fixed: expected an int of at least 0, got {step['fixed']!r}")
        step["block_size"] = given.get("block_size", scheme.get("block_size", 4))
        step["period"] = given.get("period", step["block_size"])
        if set(given) - set(step):
            raise ValueError(f"steps[{n}]: {kind} has no {', '.join(sorted(set(given) - set(step)))}")
        if step["period"] != "image" and step["period"] % step["block_size"]:
            raise ValueError(
                f"steps[{n}].period: expected a multiple of the block size {step['block_size']}, "
                f"got {step['period']}"
            )
        if kind == "colour" and channels > MAX_COLOUR_CHANNELS:
            raise ValueError(
                f"steps[{n}]: colour takes at most {MAX_COLOUR_CHANNELS} channels, got {channels}"
            )
        if any(is_decimal(before) for before in steps) and (kind in ("np", "ffx") or has_nibbles(step)):
            raise ValueError(
                f"steps[{n}]: after a decimal ffx, only steps that move whole values; got {kind}"
            )
        steps.append(step)
    if not steps:
        raise ValueError("steps: expected at least one")
    return steps


def is_decimal(step: Mapping[str, Any]) -> bool:
    return step.get("profile") == "decimal"


def has_nibbles(step: Mapping[str, Any]) -> bool:
    return step.get("cells") == "nibble"


def quantises(step: Mapping[str, Any]) -> bool:
    """Does the step work on integers alone?"""
    return step["kind"] == "ffx" or has_nibbles(step)


def is_version1(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Can version 1 express the steps?"""
    profiles = {step["profile"] for step in steps if step["kind"] == "ffx"}
    block_sizes = {step["block_size"] for step in steps}
    return len(profiles) <= 1 and len(block_sizes) == 1 and all(map(is_step_of_version1, steps))


def is_step_of_version1(step: Mapping[str, Any]) -> bool:
    return (
        step["kind"] in ("shuffle", "np", "ffx")
        and step["period"] == step["block_size"]
        and not has_nibbles(step)
        and step.get("unit", "value") == "value"
        and step.get("fixed", 0) == 0
    )


def period_size(step: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """The rows and columns of pixels of a period in an image of height x width.

    Raises ValueError where the block size or the period does not divide the image's size.
    """
    b, period = step["block_size"], step["period"]
    rows, columns = (height, width) if period == "image" else (period, period)
    if height % rows or width % columns or rows % b or columns % b:
        raise ValueError(
            f"{step['kind']}: blocks of {b} in periods of {rows} x {columns} do not fill {height} x {width}"
        )
    return rows, columns


# --- key schedule -------------------------------------------------------------------------------


def text_of(step: Mapping[str, Any], height: int, width: int) -> str:
    """What stands for the step in every subkey's info, such as np,cells=byte,unit=block,b=16,P=224x224"""
    rows, columns = period_size(step, height, width)
    parameters = "".join(f",{name}={step[name]}" for name in PARAMETERS[step["kind"]])
    if step.get("fixed", 0) != 0:
        parameters += f",fixed={step['fixed']}"
    return f"{step['kind']}{parameters},b={step['block_size']},P={rows}x{columns}"


def info_of(scheme: Mapping[str, Any], n: int, height: int, width: int, image_id: bytes | None = None) -> str:
    """The info of the subkey of step n: the whole scheme, n, and the id of an image with a key of its own."""
    texts = ";".join(text_of(step, height, width) for step in steps_of(scheme))
    info = f"blockenc/2/C={scheme.get('channels', 3)};{texts}/{n}"
    return info if image_id is None else f"{info}/image={image_id.hex()}"


def derived(key: bytes, name: str) -> bytes:
    """The key for one data set or purpose that is derived from a key."""
    return version1.hkdf_sha256(key, f"blockenc/derive/{name}".encode())


def channel_order(key: bytes, name: str, channels: int) -> list[int]:
    """The order in which a key puts the channels of a feature map: a[c] is the channel that comes to c."""
    subkey = version1.hkdf_sha256(key, f"blockenc/channels/C={channels}/{name}".encode())
    return version1.permutation(subkey, channels)


def id_bytes(image_id: int | str | bytes) -> bytes:
    """An id as the bytes that are bound: of a str its UTF-8, of an int its decimal digits."""
    if isinstance(image_id, bytes):
        return image_id
    if isinstance(image_id, str):
        return image_id.encode()
    if isinstance(image_id, bool) or image_id < 0:
        raise ValueError(f"id: expected an int of at least 0, a str or bytes, got {image_id!r}")
    return str(int(image_id)).encode()


def restricted(r: Sequence[int], fixed: int) -> list[int]:
    """The permutation that a drawn one, r, gives where `fixed` positions stay in place."""
    n = len(r)
    if fixed != 0 and fixed > n - 2:
        raise ValueError(f"fixed: expected 0 or at most {n - 2} of {n} positions, got {fixed}")
    moving = r[: n - fixed]
    a = list(range(n))
    for place, source in zip(sorted(moving), moving):
        a[place] = source
    return a


def draw(step: Mapping[str, Any], channels: int, blocks: int, key: bytes, cipher_key: bytes) -> Any:
    """The secret of one step for a period of `blocks` blocks; `key` is the step's subkey."""
    b = step["block_size"]
    values = b * b * channels
    cells = 2 * values if has_nibbles(step) else values
    uniform = version1.uniform_words(key)
    match step["kind"]:
        case "shuffle":
            drawn = [version1.drawn_permutation(uniform, cells) for _ in range(blocks)]
            return [restricted(r, step["fixed"]) for r in drawn]
        case "np":
            return version1.mask(key, blocks if step["unit"] == "block" else blocks * cells)
        case "ffx":
            table = version1.cipher_table(cipher_key, step["profile"])
            return version1.mask(key, blocks * values), table
        case "colour":
            units = blocks if step["unit"] == "block" else blocks * b * b
            return [uniform(math.factorial(channels)) for _ in range(units)]
        case "rotate":
            return [uniform(8) for _ in range(blocks)]
        case _:
            return restricted(version1.drawn_permutation(uniform, blocks), step["fixed"])


def secrets(
    keys: Mapping[str, bytes],
    scheme: Mapping[str, Any],
    height: int,
    width: int,
    image_id: bytes | None = None,
) -> list[dict[str, Any]]:
    """What each step needs for images of height x width: its "kind", and its "secret" as in the table above.

    `keys` holds the 32-byte key of each step kind that occurs; for a single key they are equal. `image_id`
    gives the secrets of that one image (per-image keys). A scheme that version 1 can express has version 1's
    secrets, unless there is an `image_id`.
    """
    channels = scheme.get("channels", 3)
    steps = steps_of(scheme)
    sizes = [period_size(step, height, width) for step in steps]
    if is_version1(steps) and image_id is None:
        return secrets_of_version1(keys, steps, channels)
    found = []
    for n, (step, (rows, columns)) in enumerate(zip(steps, sizes)):
        blocks = (rows // step["block_size"]) * (columns // step["block_size"])
        info = info_of(scheme, n, height, width, image_id)
        key = version1.hkdf_sha256(keys[step["kind"]], info.encode())
        cipher_key = version1.hkdf_sha256(keys[step["kind"]], f"{info}/cipher".encode())
        found.append({"kind": step["kind"], "secret": draw(step, channels, blocks, key, cipher_key)})
    return found


def secrets_of_version1(
    keys: Mapping[str, bytes], steps: Sequence[Mapping[str, Any]], channels: int
) -> list[dict[str, Any]]:
    """Version 1's secrets in the form of version 2: a period of one block."""
    found = []
    for kind, *secret in version1.secrets(
        keys,
        steps=[step["kind"] for step in steps],
        block_size=steps[0]["block_size"],
        channels=channels,
        ffx=next((step["profile"] for step in steps if step["kind"] == "ffx"), "byte"),
    ):
        one_block: Any = {"shuffle": secret, "np": secret[0], "ffx": tuple(secret)}[kind]
        found.append({"kind": kind, "secret": one_block})
    return found


# --- images to periods of blocks and back -------------------------------------------------------


def to_periods(x: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    """[N, H, W, C] to [Q, G, l]: the Q periods of all images, of G block vectors each."""
    n, h, w, c = x.shape
    rows, columns = period_size(step, h, w)
    periods = x.reshape(n, h // rows, rows, w // columns, columns, c).transpose(0, 1, 3, 2, 4, 5)
    vectors = version1.to_block_vectors(periods.reshape(-1, rows, columns, c), step["block_size"])
    return vectors.reshape(len(vectors), -1, vectors.shape[-1])


def from_periods(v: np.ndarray, step: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_periods`; `shape` is the images' [N, H, W, C]."""
    n, h, w, c = shape
    b = step["block_size"]
    rows, columns = period_size(step, h, w)
    vectors = v.reshape(len(v), rows // b, columns // b, b * b * c)
    periods = version1.from_block_vectors(vectors, b, c)
    periods = periods.reshape(n, h // rows, w // columns, rows, columns, c)
    return periods.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


# --- the steps ----------------------------------------------------------------------------------


def to_nibbles(v: np.ndarray) -> np.ndarray:
    """[..., l] integers 0..255 to [..., 2l] nibbles: the low halves of all values, then the high halves."""
    return np.concatenate([v % 16, v // 16], axis=-1)


def from_nibbles(v: np.ndarray) -> np.ndarray:
    """The inverse of `to_nibbles`."""
    low, high = np.split(v, 2, axis=-1)
    values: np.ndarray = 16 * high + low
    return values


def shuffle(v: np.ndarray, permutations: Sequence[Sequence[int]], decrypt: bool) -> np.ndarray:
    """v'_g[p] = v_g[a_g[p]]"""
    out = np.empty_like(v)
    for g, a in enumerate(permutations):
        if decrypt:
            out[:, g, a] = v[:, g]
        else:
            out[:, g] = v[:, g, a]
    return out


def numbered_order(number: int, channels: int) -> list[int]:
    """The permutation of 0..channels-1 with this number in lexicographic order."""
    left, order = list(range(channels)), []
    for i in reversed(range(channels)):
        place, number = divmod(number, math.factorial(i))
        order.append(left.pop(place))
    return order


def colour(v: np.ndarray, numbers: Sequence[int], channels: int, decrypt: bool) -> np.ndarray:
    """v'[..., c] = v[..., o[c]] in each unit, a block or a pixel; its number is that of the permutation o."""
    units = v.reshape(len(v), len(numbers), -1, channels)
    out = np.empty_like(units)
    for u, number in enumerate(numbers):
        o = numbered_order(number, channels)
        if decrypt:
            out[:, u][..., o] = units[:, u]
        else:
            out[:, u] = units[:, u][..., o]
    return out.reshape(v.shape)


def rotate(v: np.ndarray, numbers: Sequence[int], b: int, decrypt: bool) -> np.ndarray:
    """numpy.rot90(block, d % 4), then the columns reversed if d >= 4"""
    out = np.empty_like(v)
    for g, d in enumerate(numbers):
        blocks = v[:, g].reshape(len(v), b, b, -1)
        if decrypt:
            turned = np.rot90(blocks[:, :, ::-1] if d >= 4 else blocks, -(d % 4), axes=(1, 2))
        else:
            turned = np.rot90(blocks, d % 4, axes=(1, 2))
            turned = turned[:, :, ::-1] if d >= 4 else turned
        out[:, g] = turned.reshape(len(v), -1)
    return out


def scramble(v: np.ndarray, s: Sequence[int], decrypt: bool) -> np.ndarray:
    """Block g of the result is block s[g]."""
    if not decrypt:
        return v[:, s]
    out = np.empty_like(v)
    out[:, s] = v
    return out


def run(
    x: np.ndarray,
    secrets: Sequence[Any],
    scheme: Mapping[str, Any],
    decrypt: bool = False,
    dtype: str = "uint8",
) -> tuple[np.ndarray, int | np.ndarray]:
    """Apply the steps (their inverses in reverse order if `decrypt`) to images [N, H, W, C].

    `secrets` are those that the function `secrets` gives, or anybody's in the same form; or, for per-image
    keys, a list of such lists, one for each image. `dtype` is the value type of the images: "uint8", "uint16"
    (the raw decimal form) or a float type, whose values come as float32.

    Returns the values and their scale, as version 1 does: integers in 0..scale, or float32 values of the
    float type and scale 1. Where images with keys of their own have different scales (each has its own m, the
    largest value of a decimal E), the scale is an array [N, 1, 1, 1].
    """
    if not secrets or isinstance(secrets[0], Mapping):
        return run_alike(x, secrets, scheme, decrypt, dtype)
    if len(secrets) != len(x):
        raise ValueError(f"secrets: expected one list for each of {len(x)} images, got {len(secrets)}")
    done = [run_alike(image[None], own, scheme, decrypt, dtype) for image, own in zip(x, secrets)]
    values = np.concatenate([image for image, _ in done])
    scales = [scale for _, scale in done]
    if len(set(scales)) == 1:
        return values, scales[0]
    return values, np.array(scales).reshape(-1, 1, 1, 1)


def run_alike(
    x: np.ndarray,
    secrets: Sequence[Mapping[str, Any]],
    scheme: Mapping[str, Any],
    decrypt: bool,
    dtype: str,
) -> tuple[np.ndarray, int]:
    """`run` with the same secrets for all images.

    Where a step works on integers, floats become integers first: the nearest ones to clamp(v, 0, 1) * scale
    (scale = 255; the decimal m when decrypting) before the first step. With a decimal ffx in the scheme it is
    as published instead: np is 1 - v, and when encrypting, floats become integers at the first step met that
    works on integers, as trunc(clamp(v, 0, 1) * 255).
    """
    channels = scheme.get("channels", 3)
    steps = steps_of(scheme)
    if x.shape[3] != channels:
        raise ValueError(f"x: expected {channels} channels, got {x.shape[3]}")
    if [step["kind"] for step in steps] != [secret["kind"] for secret in secrets]:
        raise ValueError("secrets: their kinds are not those of the scheme's steps")

    enciphered_max = 255
    for step, secret in zip(steps, secrets):
        if is_decimal(step):
            enciphered_max = int(max(secret["secret"][1]))
    published = any(map(is_decimal, steps))

    integers = dtype in ("uint8", "uint16")
    x = x.astype(np.int64 if integers else np.float32)
    scale = enciphered_max if decrypt else 255
    if any(map(quantises, steps)) and not integers and (decrypt or not published):
        x, integers = version1.nearest_integers(x, scale), True

    order = list(zip(steps, secrets))
    for step, bound in reversed(order) if decrypt else order:
        secret = bound["secret"]
        if quantises(step) and not integers:
            x, integers = version1.truncated_integers(x), True
        v = to_periods(x, step)
        match step["kind"]:
            case "shuffle" if has_nibbles(step):
                v = from_nibbles(shuffle(to_nibbles(v), secret, decrypt))
            case "shuffle":
                v = shuffle(v, secret, decrypt)
            case "np" if step["unit"] == "block":
                of_block = np.array(secret)[:, None]
                v = np.where(of_block, version1.negative(v, dtype, published), v)
            case "np" if has_nibbles(step):
                nibbles = to_nibbles(v)
                of_nibble = np.array(secret).reshape(nibbles.shape[1:])
                v = from_nibbles(np.where(of_nibble, 15 - nibbles, nibbles))
            case "np":
                of_value = np.array(secret).reshape(v.shape[1:])
                v = np.where(of_value, version1.negative(v, dtype, published), v)
            case "ffx":
                selected, table = np.array(secret[0]).reshape(v.shape[1:]), np.array(secret[1])
                if decrypt:
                    v = version1.deciphered(v, selected, table, step["profile"])
                else:
                    v = version1.enciphered(v, selected, table)
                if is_decimal(step):
                    scale = 255 if decrypt else enciphered_max
            case "colour":
                v = colour(v, secret, channels, decrypt)
            case "rotate":
                v = rotate(v, secret, step["block_size"], decrypt)
            case "scramble":
                v = scramble(v, secret, decrypt)
        x = from_periods(v, step, x.shape)
    return x, scale if integers else 1


def encrypt(
    x: np.ndarray,
    keys: Mapping[str, bytes],
    scheme: Mapping[str, Any],
    ids: Sequence[int | str | bytes] | None = None,
    decrypt: bool = False,
    dtype: str = "uint8",
) -> tuple[np.ndarray, int | np.ndarray]:
    """`run` with the secrets of `keys`; with `ids`, one for each image, every image has its own secrets."""
    _, height, width, _ = x.shape
    if ids is None:
        return run(x, secrets(keys, scheme, height, width), scheme, decrypt, dtype)
    own = [secrets(keys, scheme, height, width, id_bytes(image_id)) for image_id in ids]
    if len(own) != len(x):
        raise ValueError(f"ids: expected one for each of {len(x)} images, got {len(own)}")
    return run(x, own, scheme, decrypt, dtype)
