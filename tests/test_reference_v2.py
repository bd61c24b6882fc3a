"""The oracle of scheme version 2 itself: by hand, by what must hold, and against version 1."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockenc.reference import version1, version2
from tests import oracle, schemes
from tests.schemes import Case, scheme_of, step

KEYS = {kind: bytes(range(n, n + 32)) for n, kind in enumerate(schemes.KINDS)}
IMAGE = {"period": "image"}


def image(case: Case, seed: int = 0) -> np.ndarray:
    """Images [N, H, W, C] of the case's shape and value type: bytes, or floats of which half are bytes."""
    n, c, h, w = case.shape
    draw = np.random.default_rng(seed)
    bytes_ = draw.integers(0, 256, (n, h, w, c))
    if case.dtype == "uint8":
        return bytes_
    of_bytes = (bytes_ / 255).astype(np.float32)
    return version1.round_to(
        np.where(draw.random(bytes_.shape) < 0.5, of_bytes, draw.random(bytes_.shape)).astype(np.float32),
        case.dtype,
    )


def counted(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.arange(height * width * channels).reshape(1, height, width, channels)


def by_hand(x: np.ndarray, scheme: dict, *secrets: Any, **options: Any) -> np.ndarray:
    """The result of explicit secrets; decrypting it gives x back."""
    bound = [{"kind": s["kind"], "secret": secret} for s, secret in zip(scheme["steps"], secrets)]
    y, _ = version2.run(x, bound, scheme, **options)
    back, _ = version2.run(y, bound, scheme, decrypt=True, **options)
    assert np.array_equal(back, x)
    return y


# --- by hand ------------------------------------------------------------------------------------


def test_shuffle() -> None:
    """The period is the image, of two blocks one above the other: a permutation for each."""
    x = counted(4, 2)
    y = by_hand(x, scheme_of(2, 1, step("shuffle", **IMAGE)), [[3, 0, 1, 2], [0, 2, 1, 3]])
    assert y[0, :, :, 0].tolist() == [[3, 0], [1, 2], [4, 6], [5, 7]]


def test_positions_of_a_block_vector() -> None:
    """p = (i*b + j)*C + c: the value of row 1, column 0, channel 1 of three is at (1*2 + 0)*3 + 1 = 7."""
    mask = [False] * 12
    mask[7] = True
    y = by_hand(np.zeros((1, 2, 2, 3), int), scheme_of(2, 3, step("np")), mask)
    assert np.argwhere(y).tolist() == [[0, 1, 0, 1]]
    assert y[0, 1, 0, 1] == 255


def test_np_of_values_goes_block_by_block() -> None:
    """Two blocks side by side: the fifth of eight values is the first of the right block."""
    mask = [n == 4 for n in range(8)]
    y = by_hand(np.zeros((1, 2, 4, 1), int), scheme_of(2, 1, step("np", **IMAGE)), mask)
    assert y[0, :, :, 0].tolist() == [[0, 0, 255, 0], [0, 0, 0, 0]]


def test_np_of_blocks() -> None:
    y = by_hand(counted(2, 4), scheme_of(2, 1, step("np", unit="block", **IMAGE)), [False, True])
    assert y[0, :, :, 0].tolist() == [[0, 1, 253, 252], [4, 5, 249, 248]]


def test_nibbles() -> None:
    """Nibble q is the low half of value q, nibble l + q its high half."""
    x = np.array([0x12, 0x34]).reshape(1, 1, 1, 2)
    low_swapped = by_hand(x, scheme_of(1, 2, step("shuffle", cells="nibble")), [[1, 0, 2, 3]])
    assert low_swapped.ravel().tolist() == [0x14, 0x32]
    halves_swapped = by_hand(x, scheme_of(1, 2, step("shuffle", cells="nibble")), [[2, 3, 0, 1]])
    assert halves_swapped.ravel().tolist() == [0x21, 0x43]
    negated = by_hand(x, scheme_of(1, 2, step("np", cells="nibble")), [True, False, False, True])
    assert negated.ravel().tolist() == [0x1D, 0xC4]
    whole = by_hand(x, scheme_of(1, 2, step("np", cells="nibble", unit="block")), [True])
    assert whole.ravel().tolist() == [0xED, 0xCB]


def test_nibbles_of_a_mask_go_block_by_block() -> None:
    """Two blocks of one value: nibbles 0 and 1 are of the first, 2 (low) and 3 (high) of the second."""
    mask = [False, True, True, False]
    y = by_hand(np.zeros((1, 1, 2, 1), int), scheme_of(1, 1, step("np", cells="nibble", **IMAGE)), mask)
    assert y.ravel().tolist() == [0xF0, 0x0F]


@pytest.mark.parametrize("d", range(8))
def test_rotate(d: int) -> None:
    x = counted(3, 3, 2)
    y = by_hand(x, scheme_of(3, 2, step("rotate")), [d])
    want = np.rot90(x[0], d % 4)
    assert np.array_equal(y[0], want[:, ::-1] if d >= 4 else want)


def test_rotate_turns_counterclockwise_then_reverses_columns() -> None:
    turned = by_hand(counted(2, 2), scheme_of(2, 1, step("rotate")), [1])
    assert turned[0, :, :, 0].tolist() == [[1, 3], [0, 2]]
    reversed_too = by_hand(counted(2, 2), scheme_of(2, 1, step("rotate")), [5])
    assert reversed_too[0, :, :, 0].tolist() == [[3, 1], [2, 0]]


def test_colour() -> None:
    """Number 3 of the permutations of 0, 1, 2 is 1, 2, 0: the first channel of the result is the second."""
    x = np.array([10, 20, 30, 40, 50, 60]).reshape(1, 1, 2, 3)
    y = by_hand(x, scheme_of(1, 3, step("colour", **IMAGE)), [3, 0])
    assert y[0, 0].tolist() == [[20, 30, 10], [40, 50, 60]]


def test_colour_of_pixels_goes_block_by_block() -> None:
    """The fifth of eight pixels is the first of the right block."""
    x = np.tile(np.array([1, 2]), (1, 2, 4, 1))
    numbers = [int(n == 4) for n in range(8)]
    y = by_hand(x, scheme_of(2, 2, step("colour", unit="pixel", **IMAGE)), numbers)
    assert y[0, :, :, 0].tolist() == [[1, 1, 2, 1], [1, 1, 1, 1]]


def test_orders_are_lexicographic() -> None:
    for channels in range(1, 6):
        for number, order in enumerate(itertools.permutations(range(channels))):
            assert tuple(version2.numbered_order(number, channels)) == order


def test_scramble() -> None:
    """Block g of the result is block s[g] of the image, in row-major order."""
    y = by_hand(counted(2, 3), scheme_of(1, 1, step("scramble", **IMAGE)), [1, 2, 0, 5, 3, 4])
    assert y[0, :, :, 0].tolist() == [[1, 2, 0], [5, 3, 4]]


def test_ffx() -> None:
    table = [(v + 1) % 256 for v in range(256)]
    y = by_hand(counted(1, 4), scheme_of(1, 1, step("ffx", **IMAGE)), ([True, False, True, False], table))
    assert y.ravel().tolist() == [1, 1, 3, 3]


def test_published_le() -> None:
    """Tanaka's code restated: on nibbles, low first, negate where key > 48, gather by key, negate again."""
    key = np.random.default_rng(1).permutation(96)
    rev = key > 48
    x = np.random.default_rng(2).integers(0, 256, (1, 4, 4, 3))
    nibbles = np.concatenate([x.reshape(48) & 15, x.reshape(48) >> 4])
    nibbles[rev] = 15 - nibbles[rev]
    nibbles = nibbles[key]
    nibbles[rev] = 15 - nibbles[rev]
    want = nibbles[48:] * 16 + nibbles[:48]
    kinds = (step("np", cells="nibble"), step("shuffle", cells="nibble"), step("np", cells="nibble"))
    y = by_hand(x, scheme_of(4, 3, *kinds), rev.tolist(), [key.tolist()], rev.tolist())
    assert y.ravel().tolist() == want.tolist()


# --- floats by hand -----------------------------------------------------------------------------


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, -1, 1)


def run_floats(scheme: dict, secret: Any, x: np.ndarray, dtype: str = "float32") -> tuple[np.ndarray, int]:
    values, scale = version2.run(
        x, [{"kind": scheme["steps"][0]["kind"], "secret": secret}], scheme, dtype=dtype
    )
    return values.ravel(), scale


@pytest.mark.parametrize("dtype", schemes.FLOATS)
@pytest.mark.parametrize("unit", ("value", "block"))
def test_np_of_floats(unit: str, dtype: str) -> None:
    """The floats k/255 are bytes, others become 1 - v; what is not selected stays, be it in [0, 1] or not."""
    every = np.arange(256)
    others = np.array([0.3, 0.123456, -2.5, 7], np.float32)
    v = version1.round_to(np.concatenate([version1.output(every, 255, "float32"), others]), dtype)
    scheme = scheme_of(1, 1, step("np", unit=unit, **IMAGE))
    values, scale = run_floats(scheme, [True] * 260, floats(*v), dtype)
    assert scale == 1
    assert np.array_equal(values[:256], version1.output(255 - every, 255, dtype))
    assert np.array_equal(values[256:], version1.round_to(np.float32(1) - v[256:], dtype))
    unselected, _ = run_floats(scheme, [False] * 260, floats(*v), dtype)
    assert np.array_equal(unselected, v)


@pytest.mark.parametrize("unit", ("value", "block"))
def test_nibbles_make_integers_first(unit: str) -> None:
    """The nearest ones, outside of [0, 1] clamped, NaN gives 0; where nothing is negated too."""
    scheme = scheme_of(1, 1, step("np", cells="nibble", unit=unit, **IMAGE))
    mask = [False] * (5 if unit == "block" else 10)
    values, scale = run_floats(scheme, mask, floats(0.5, 1.5, -1, np.nan, 100.4 / 255))
    assert (values.tolist(), scale) == ([128, 255, 0, 0, 100], 255)  # 127.5 goes to the even 128


def test_a_scheme_that_quantises_does_so_before_its_first_step() -> None:
    """np, then ffx: 0.3 is the byte 76 first (76.5 to even), of which np makes 179; 1 - 0.3 would be 178."""
    scheme = scheme_of(1, 1, step("np", **IMAGE), step("scramble", **IMAGE), step("ffx", **IMAGE))
    table = list(range(256))
    bound = [
        {"kind": "np", "secret": [True]},
        {"kind": "scramble", "secret": [0]},
        {"kind": "ffx", "secret": ([False], table)},
    ]
    values, scale = version2.run(floats(0.3), bound, scheme, dtype="float32")
    assert (values.ravel().tolist(), scale) == ([255 - round(0.3 * 255)], 255)


def test_decimal_floats_are_truncated_where_they_meet_the_step() -> None:
    """As published: np is 1 - v on floats, then trunc, so that many a byte k becomes 254 - k."""
    scheme = scheme_of(1, 1, step("np", **IMAGE), step("ffx", profile="decimal", **IMAGE))
    table = [v + 500 for v in range(256)]
    every = floats(*(np.arange(256, dtype=np.float32) / np.float32(255)))
    bound = [{"kind": "np", "secret": [True] * 256}, {"kind": "ffx", "secret": ([False] * 256, table)}]
    values, scale = version2.run(every, bound, scheme, dtype="float32")
    want = np.trunc((np.float32(1) - every) * np.float32(255))
    assert scale == 755
    assert np.array_equal(values, want)
    assert int((values.ravel() != 255 - np.arange(256)).sum()) == 159  # docs/scheme.md


def test_nibbles_before_a_decimal_ffx_truncate() -> None:
    kinds = (step("np", cells="nibble", **IMAGE), step("ffx", profile="decimal", **IMAGE))
    bound = [
        {"kind": "np", "secret": [False, False]},
        {"kind": "ffx", "secret": ([True], [v + 1 for v in range(256)])},
    ]
    values, scale = version2.run(floats(100.9 / 255), bound, scheme_of(1, 1, *kinds), dtype="float32")
    assert (values.ravel().tolist(), scale) == ([101], 256)


# --- what must hold -----------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(case=schemes.cases(dtypes=("uint8",)))
def test_decrypting_gives_the_image_back(case: Case) -> None:
    x = image(case)
    y, scale = version2.encrypt(x, KEYS, case.scheme, case.ids)
    assert y.shape == x.shape
    assert ((y >= 0) & (y <= scale)).all()
    if not case.decimal:
        assert scale == 255
    back, scale = version2.encrypt(
        y, KEYS, case.scheme, case.ids, decrypt=True, dtype="uint16" if case.decimal else "uint8"
    )
    assert scale == 255
    assert np.array_equal(back, x)


@settings(max_examples=100, deadline=None)
@given(case=schemes.cases(decimal=False, dtypes=schemes.FLOATS, max_steps=3))
def test_floats_of_bytes_are_bytes(case: Case) -> None:
    """docs/scheme.md: encrypt(x/255) == encrypt(x, dtype=float), and decryption gives the very floats."""
    x = np.random.default_rng(0).integers(0, 256, [case.shape[n] for n in (0, 2, 3, 1)])
    as_floats = version1.output(x, 255, case.dtype)
    want = version1.output(*version2.encrypt(x, KEYS, case.scheme, case.ids), case.dtype)
    values, scale = version2.encrypt(as_floats, KEYS, case.scheme, case.ids, dtype=case.dtype)
    assert scale == (255 if case.quantises else 1)
    got = version1.output(values, scale, case.dtype)
    assert np.array_equal(got, want)
    back = version2.encrypt(got, KEYS, case.scheme, case.ids, decrypt=True, dtype=case.dtype)
    assert np.array_equal(version1.output(*back, case.dtype), as_floats)


@settings(max_examples=60, deadline=None)
@given(case=schemes.cases(dtypes=("float32",)))
def test_encrypted_floats_decrypt_to_the_bytes(case: Case) -> None:
    """From what a model is given, value / scale in float32, the image comes back; m is each image's own."""
    x = image(Case(case.scheme, case.shape))
    given_out = version1.output(*version2.encrypt(x, KEYS, case.scheme, case.ids), "float32")
    values, scale = version2.encrypt(given_out, KEYS, case.scheme, case.ids, decrypt=True, dtype="float32")
    assert np.array_equal(values if scale == 255 else np.rint(values * 255), x)


@settings(max_examples=100, deadline=None)
@given(case=schemes.cases(kinds=("shuffle", "colour", "rotate", "scramble"), dtypes=schemes.FLOATS))
def test_moving_steps_move_any_floats(case: Case) -> None:
    if case.quantises:  # a shuffle of nibbles
        return
    x = image(case)
    x[0, 0, 0] = [np.nan, -0.0, np.inf, -3][: x.shape[3]]
    values, scale = version2.encrypt(x, KEYS, case.scheme, case.ids, dtype=case.dtype)
    back, _ = version2.encrypt(values, KEYS, case.scheme, case.ids, decrypt=True, dtype=case.dtype)
    assert scale == 1
    assert values.dtype == np.float32
    assert np.array_equal(np.sort(values, axis=None), np.sort(x, axis=None), equal_nan=True)
    assert np.array_equal(back.view(np.uint32), x.view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(case=schemes.cases(per_image=False), key=st.binary(min_size=32, max_size=32))
def test_images_and_periods_are_treated_alike(case: Case, key: bytes) -> None:
    """Equal images of a batch encrypt alike; so do the equal periods of an image, if periods are alike."""
    keys = dict.fromkeys(schemes.KINDS, key)
    n, c, h, w = case.shape
    x = image(Case(case.scheme, (1, c, h, w), case.dtype))
    alone, _ = version2.encrypt(x, keys, case.scheme, dtype=case.dtype)
    batch, _ = version2.encrypt(np.repeat(x, n, axis=0), keys, case.scheme, dtype=case.dtype)
    assert np.array_equal(batch, np.repeat(alone, n, axis=0))
    if any(s.get("period") == "image" for s in case.scheme["steps"]):
        return  # the secrets of another size are others
    tiled, _ = version2.encrypt(np.tile(x, (1, 2, 3, 1)), keys, case.scheme, dtype=case.dtype)
    assert np.array_equal(tiled, np.tile(alone, (1, 2, 3, 1)))


@pytest.mark.parametrize("kind", schemes.KINDS)
def test_blocks_of_a_period_are_treated_each_its_own_way(kind: str) -> None:
    """The equal blocks of an image become different ones where P is the image, and stay equal where P = b."""
    block = counted(4, 4, 3)
    x = np.tile(block, (1, 4, 6, 1))
    apart = version2.encrypt(x, KEYS, scheme_of(4, 3, step(kind, **IMAGE)))[0]
    alike = version2.encrypt(x, KEYS, scheme_of(4, 3, step(kind)))[0]
    assert len(blocks_of(alike)) == 1
    assert len(blocks_of(apart)) == 1 if kind == "scramble" else len(blocks_of(apart)) > 4


def blocks_of(x: np.ndarray) -> set[bytes]:
    return {block.tobytes() for block in version1.to_block_vectors(x, 4).reshape(-1, 48)}


@settings(max_examples=100, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(("shuffle", "np", "ffx")), min_size=1, max_size=5),
    block_size=st.integers(1, 5),
    channels=st.sampled_from((1, 3, 4)),
    profile=st.sampled_from(("byte", "decimal")),
    dtype=st.sampled_from(schemes.DTYPES),
    written_out=st.booleans(),
)
def test_version_1(
    kinds: list[str], block_size: int, channels: int, profile: str, dtype: str, written_out: bool
) -> None:
    """A scheme that version 1 can express has version 1's secrets, values and scale, in every value type."""
    if profile == "decimal" and "ffx" in kinds:
        first = kinds.index("ffx")
        kinds = kinds[: first + 1] + [kind for kind in kinds[first + 1 :] if kind == "shuffle"]
    if "ffx" not in kinds:
        profile = "byte"
    made = [step(kind, profile=profile) if kind == "ffx" else step(kind) for kind in kinds]
    scheme = scheme_of(block_size, channels, *made)
    if written_out:  # the block size in every step, and another one as what steps without one would take
        scheme = scheme_of(
            9, channels, *({**s, "block_size": block_size, "period": block_size} for s in made)
        )
    x = image(Case(scheme, (2, channels, 2 * block_size, 3 * block_size), dtype))
    found = version1.secrets(KEYS, steps=kinds, block_size=block_size, channels=channels, ffx=profile)
    options = {"block_size": block_size, "ffx": profile}
    want, want_scale = version1.run(x, found, **options, dtype=dtype)
    got, got_scale = version2.encrypt(x, KEYS, scheme, dtype=dtype)
    assert (got_scale, got.dtype) == (want_scale, want.dtype)
    assert np.array_equal(got, want)
    encrypted = version1.output(want, want_scale, dtype) if dtype != "uint8" else want
    dtype = "uint16" if dtype == "uint8" and profile == "decimal" else dtype
    want, want_scale = version1.run(encrypted, found, **options, dtype=dtype, decrypt=True)
    got, got_scale = version2.encrypt(encrypted, KEYS, scheme, dtype=dtype, decrypt=True)
    assert got_scale == want_scale
    assert np.array_equal(got, want)


def test_what_version_1_cannot_express() -> None:
    default = [step("shuffle"), step("np"), step("ffx")]
    others = [
        scheme_of(4, 3, *default[:2], step("ffx", period=8)),
        scheme_of(4, 3, *default[:2], step("ffx", block_size=2)),
        scheme_of(4, 3, step("shuffle", cells="nibble"), *default[1:]),
        scheme_of(4, 3, *default, step("np", unit="block")),
        scheme_of(4, 3, *default, step("rotate")),
        scheme_of(4, 3, *default, step("ffx", profile="decimal")),
        scheme_of(4, 3, step("shuffle", **IMAGE)),  # even in an image of one block
    ]
    assert version2.is_version1(version2.steps_of(scheme_of(4, 3, *default)))
    for scheme in others:
        assert not version2.is_version1(version2.steps_of(scheme)), scheme
    one_block = counted(4, 4, 3)
    whole, _ = version2.encrypt(one_block, KEYS, others[-1])
    alike, _ = version2.encrypt(one_block, KEYS, scheme_of(4, 3, step("shuffle")))
    assert not np.array_equal(whole, alike)


def test_a_number_for_the_period_is_the_image_of_that_size() -> None:
    """Their texts agree, so do their secrets."""
    x = image(Case({}, (1, 3, 16, 16)))
    by_number, _ = version2.encrypt(x, KEYS, scheme_of(4, 3, step("scramble", period=16)))
    by_name, _ = version2.encrypt(x, KEYS, scheme_of(4, 3, step("scramble", period="image")))
    assert np.array_equal(by_number, by_name)


# --- keys ---------------------------------------------------------------------------------------


def test_infos() -> None:
    scheme = scheme_of(
        16,
        3,
        step("np", unit="block", period="image"),
        step("shuffle", cells="nibble", block_size=4, period=8),
        step("ffx", block_size=2),
        step("colour"),
        step("rotate", period=32),
        step("scramble", period="image"),
        step("colour", unit="pixel"),
    )
    texts = (
        "np,cells=byte,unit=block,b=16,P=224x192;shuffle,cells=nibble,b=4,P=8x8;ffx,profile=byte,b=2,P=2x2;"
        "colour,unit=block,b=16,P=16x16;rotate,b=16,P=32x32;scramble,b=16,P=224x192;"
        "colour,unit=pixel,b=16,P=16x16"
    )
    infos = [version2.info_of(scheme, n, 224, 192) for n in range(7)]
    assert infos == [f"blockenc/2/C=3;{texts}/{n}" for n in range(7)]
    assert version2.info_of(scheme, 2, 224, 192, b"\x00z") == f"blockenc/2/C=3;{texts}/2/image=007a"


def test_infos_of_the_docs() -> None:
    """The scheme that docs/scheme.md shows has the infos that it shows."""
    page = (Path(__file__).parents[1] / "docs" / "scheme.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    scheme = json.loads(shown)
    infos = re.findall(r"^    (blockenc/2/C=3;.*)$", page, re.MULTILINE)
    assert infos == [version2.info_of(scheme, n, 224, 192) for n in range(3)]


@pytest.mark.parametrize("image_id", (None, b"7"))
def test_the_cipher_of_ffx_has_a_key_of_its_own(image_id: bytes | None) -> None:
    """.../0/cipher, or .../0/image=37/cipher: the subkeys again, from the very strings."""
    scheme = scheme_of(2, 1, step("ffx", period=4))
    (found,) = version2.secrets(KEYS, scheme, 4, 8, image_id)
    info = "blockenc/2/C=1;ffx,profile=byte,b=2,P=4x4/0" + ("" if image_id is None else "/image=37")
    selected, table = found["secret"]
    assert selected == version1.mask(version1.hkdf_sha256(KEYS["ffx"], info.encode()), 16)
    cipher_key = version1.hkdf_sha256(KEYS["ffx"], f"{info}/cipher".encode())
    assert table == [version1.ff1_byte(cipher_key, v) for v in range(256)]


def test_shapes_of_secrets() -> None:
    """A period of 2 x 3 blocks of 2 x 2 pixels of 3 channels: G = 6, l = 12; half of the units are masked."""

    def secret(kind: str, **parameters: str) -> Any:
        scheme = scheme_of(2, 3, step(kind, **parameters, **IMAGE))
        return version2.secrets(KEYS, scheme, 4, 6)[0]["secret"]

    for cells, length in (("byte", 12), ("nibble", 24)):
        permutations = secret("shuffle", cells=cells)
        assert [sorted(a) for a in permutations] == [list(range(length))] * 6
        assert len(set(map(tuple, permutations))) == 6
        assert (len(secret("np", cells=cells)), sum(secret("np", cells=cells))) == (6 * length, 3 * length)
        assert (len(secret("np", cells=cells, unit="block")), sum(secret("np", unit="block"))) == (6, 3)
    selected, table = secret("ffx")
    assert (len(selected), sum(selected), sorted(table)) == (72, 36, list(range(256)))
    assert len(secret("colour")) == 6
    assert len(secret("colour", unit="pixel")) == 24
    assert set(secret("colour", unit="pixel")) == set(range(6))
    assert len(secret("rotate")) == 6
    assert sorted(secret("scramble")) == list(range(6))


def test_permutations_come_one_after_the_other_from_one_keystream() -> None:
    scheme = scheme_of(2, 1, step("shuffle", **IMAGE))
    (found,) = version2.secrets(KEYS, scheme, 2, 4)
    key = version1.hkdf_sha256(KEYS["shuffle"], version2.info_of(scheme, 0, 2, 4).encode())
    uniform = version1.uniform_words(key)
    for a in found["secret"]:
        b = [0, 1, 2, 3]
        for i in (3, 2, 1):
            j = uniform(i + 1)
            b[i], b[j] = b[j], b[i]
        assert a == b


def test_positions_that_are_fixed() -> None:
    """By hand: of r = 4 1 5 0 2 3 and f = 3 the numbers 4, 1 and 5 move, to 1, 4 and 5 in their order."""
    assert version2.restricted([4, 1, 5, 0, 2, 3], 3) == [0, 4, 2, 3, 1, 5]
    assert version2.restricted([4, 1, 5, 0, 2, 3], 0) == [4, 1, 5, 0, 2, 3]
    assert version2.restricted([2, 0, 1], 1) == [2, 1, 0]
    for kind, n, many in (("shuffle", 48, 6), ("scramble", 6, 1)):
        for fixed in (1, n // 2, n - 2):
            scheme = scheme_of(4, 3, step(kind, fixed=fixed, **IMAGE))
            (found,) = version2.secrets(KEYS, scheme, 8, 12)
            permutations = [found["secret"]] if many == 1 else found["secret"]
            assert len(permutations) == many
            for a in permutations:
                assert sorted(a) == list(range(n))
                assert sum(a[p] == p for p in range(n)) >= fixed
            assert any(a != list(range(n)) for a in permutations)
            assert fixed == n - 2 or len({tuple(a) for a in permutations}) == many
            assert version2.info_of(scheme, 0, 8, 12).count(f",fixed={fixed},b=4,") == 1


@pytest.mark.parametrize("kind", schemes.KINDS)
def test_each_kind_has_its_own_key(kind: str) -> None:
    scheme = scheme_of(4, 3, *(step(name, **IMAGE) for name in schemes.KINDS))
    right = version2.secrets(KEYS, scheme, 16, 24)
    wrong = version2.secrets({**KEYS, kind: bytes(32)}, scheme, 16, 24)
    assert [a["kind"] for a, b in zip(right, wrong) if a != b] == [kind]


def test_the_whole_scheme_is_bound() -> None:
    """Steps alike in schemes that differ anywhere have other secrets; so has a step that comes again."""

    def first_secret(scheme: dict, height: int = 8, width: int = 12) -> str:
        return repr(version2.secrets(KEYS, scheme, height, width)[0])

    base = step("shuffle", **IMAGE)
    found = [
        first_secret(scheme_of(4, 3, base)),
        first_secret(scheme_of(4, 3, base, base)),
        first_secret(scheme_of(4, 3, base, step("np"))),
        first_secret(scheme_of(4, 3, base, step("np", unit="block"))),
        first_secret(scheme_of(4, 3, base, step("np", block_size=2))),
        first_secret(scheme_of(4, 3, base, step("np", period="image"))),
        first_secret(scheme_of(4, 3, base), 12, 8),
    ]
    assert len(set(found)) == len(found)
    again = version2.secrets(KEYS, scheme_of(4, 3, base, base), 8, 12)
    assert again[0] != again[1]


def test_images_with_keys_of_their_own() -> None:
    """Equal images of different ids encrypt differently, of one id alike, whatever else is in the batch."""
    case = schemes.NOTABLE["a key for each image"]
    x = np.repeat(image(case)[:1], 4, axis=0)
    y, _ = version2.encrypt(x, KEYS, case.scheme, ["a", "b", b"a", 7])
    assert np.array_equal(y[0], y[2])
    different = {block.tobytes() for block in y}
    assert len(different) == 3
    without, _ = version2.encrypt(x[:1], KEYS, case.scheme)
    assert without.tobytes() not in different
    alone, _ = version2.encrypt(x[:1], KEYS, case.scheme, ["b"])
    assert np.array_equal(alone[0], y[1])


def test_ids() -> None:
    assert version2.id_bytes(120) == version2.id_bytes("120") == version2.id_bytes(b"120") == b"120"
    assert version2.id_bytes("ü") == "ü".encode()
    assert version2.id_bytes(np.int64(3)) == b"3"
    for wrong in (-1, True):
        with pytest.raises(ValueError, match="id: expected"):
            version2.id_bytes(wrong)
    case = schemes.NOTABLE["a key for each image"]
    with pytest.raises(ValueError, match="one for each of 3 images, got 2"):
        version2.encrypt(image(case), KEYS, case.scheme, ids=[1, 2])


def test_decimal_scales_of_images_with_keys_of_their_own() -> None:
    scheme = scheme_of(2, 1, step("ffx", profile="decimal"))
    x = image(Case(scheme, (6, 1, 4, 6)))
    ids = list(range(6))
    y, scale = version2.encrypt(x, KEYS, scheme, ids)
    tables = [version2.secrets(KEYS, scheme, 4, 6, str(n).encode())[0]["secret"][1] for n in ids]
    assert np.asarray(scale).ravel().tolist() == [max(table) for table in tables]
    assert len(set(np.asarray(scale).ravel().tolist())) > 1
    as_floats = version1.output(y, scale, "float32")
    back, scale = version2.encrypt(as_floats, KEYS, scheme, ids, decrypt=True, dtype="float32")
    assert scale == 255
    assert np.array_equal(back, x)


# --- what is refused ----------------------------------------------------------------------------

DECIMAL = step("ffx", profile="decimal")


@pytest.mark.parametrize(
    "scheme, message",
    [
        (scheme_of(4, 3), "at least one"),
        (scheme_of(4, 3, step("turn")), "expected a kind"),
        (scheme_of(4, 3, step("np", cells="bit")), "cells: expected one of"),
        (scheme_of(4, 3, step("shuffle", unit="block")), "shuffle has no unit"),
        (scheme_of(4, 3, step("rotate", period=6)), "multiple of the block size 4"),
        (scheme_of(4, 3, step("scramble", block_size=3)), "do not fill 8 x 16"),
        (scheme_of(4, 3, step("scramble", period=16)), "do not fill 8 x 16"),
        (scheme_of(4, 3, step("scramble", block_size=16, period="image")), "do not fill 8 x 16"),
        (scheme_of(4, 13, step("colour")), "at most 12 channels"),
        (scheme_of(4, 3, step("rotate", fixed=1)), "rotate has no fixed"),
        (scheme_of(4, 3, step("shuffle", fixed=-1)), "fixed: expected an int of at least 0, got -1"),
        (scheme_of(4, 3, step("shuffle", fixed=True)), "fixed: expected an int"),
        (scheme_of(4, 3, step("shuffle", fixed=47)), "fixed: expected 0 or at most 46 of 48"),
        (scheme_of(4, 3, step("scramble", fixed=7, period="image")), "fixed: expected 0 or at most 6 of 8"),
        (scheme_of(4, 3, DECIMAL, step("np")), "after a decimal ffx"),
        (scheme_of(4, 3, DECIMAL, step("rotate"), step("shuffle", cells="nibble")), "after a decimal ffx"),
        (scheme_of(4, 3, DECIMAL, step("ffx")), "after a decimal ffx"),
        ({**scheme_of(4, 3, step("np")), "version": 3}, "version: expected 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(scheme: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        version2.encrypt(np.zeros((1, 8, 16, scheme["channels"]), int), KEYS, scheme)


def test_images_and_secrets_that_do_not_fit_are_refused() -> None:
    scheme = scheme_of(4, 3, step("rotate"))
    with pytest.raises(ValueError, match="expected 3 channels, got 1"):
        version2.encrypt(np.zeros((1, 4, 4, 1), int), KEYS, scheme)
    with pytest.raises(ValueError, match="not those of the scheme's steps"):
        version2.run(np.zeros((1, 4, 4, 3), int), [{"kind": "scramble", "secret": [0]}], scheme)


# --- the schemes that the tests draw ------------------------------------------------------------


@pytest.mark.parametrize("name", schemes.NOTABLE)
def test_notable_schemes(name: str) -> None:
    case = schemes.NOTABLE[name]
    x = image(case)
    y, _ = version2.encrypt(x, KEYS, case.scheme, case.ids)
    assert not np.array_equal(y, x)
    back, _ = version2.encrypt(
        y, KEYS, case.scheme, case.ids, decrypt=True, dtype="uint16" if case.decimal else "uint8"
    )
    assert np.array_equal(back, x)


def test_drawn_schemes_have_everything() -> None:
    """Every kind, parameter and form of period is drawn, written out or left out; no image is square."""
    seen: set[Any] = set()

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(case=schemes.cases())
    def look(case: Case) -> None:
        seen.update({("dtype", case.dtype), ("C", case.shape[1]), ("decimal", case.decimal)})
        seen.update({("ids", case.ids is not None), ("steps", len(case.scheme["steps"]))})
        seen.update(("id", type(identity)) for identity in case.ids or ())
        for given_, full in zip(case.scheme["steps"], version2.steps_of(case.scheme)):
            seen.update((full["kind"], name, full[name]) for name in schemes.CHOICES[full["kind"]])
            seen.add((full["kind"], "fixed", full.get("fixed", 0) > 0))
            seen.update((full["kind"], name, "left out") for name in full if name not in given_)
            period, b = full["period"], full["block_size"]
            form = period if period == "image" else "b" if period == b else "longer"
            seen.add((full["kind"], "period", form))
        assert case.shape[2] != case.shape[3]

    look()
    wanted: set[Any] = {("dtype", dtype) for dtype in schemes.DTYPES} | {("C", n) for n in (1, 3, 4)}
    wanted |= {(name, value) for name in ("ids", "decimal") for value in (True, False)}
    wanted |= {("steps", n) for n in range(1, 6)} | {("id", kind) for kind in (int, str, bytes)}
    for kind, parameters in schemes.CHOICES.items():
        wanted |= {(kind, "period", form) for form in ("image", "b", "longer")}
        wanted |= {(kind, name, "left out") for name in (*parameters, "block_size", "period")}
        wanted |= {(kind, name, value) for name, values in parameters.items() for value in values}
    wanted |= {(kind, "fixed", some) for kind in schemes.WITH_FIXED for some in (True, False)}
    assert wanted <= seen, wanted - seen


def test_expected_of_scheme_is_the_oracle_under_one_key() -> None:
    """What the tests of the library compare with: tensors, the types of torch, the output stage."""
    import torch

    case = schemes.NOTABLE["a key for each image"]
    x = oracle.image(case.shape)
    keys = dict.fromkeys(schemes.KINDS, oracle.KEY)
    y, scale = version2.encrypt(x.permute(0, 2, 3, 1).numpy().astype(int), keys, case.scheme, case.ids)
    want = torch.from_numpy(y).permute(0, 3, 1, 2)
    got = oracle.expected_of_scheme(x, case.scheme, case.ids)
    assert got.dtype == torch.uint8
    assert torch.equal(got, want.to(torch.uint8))
    back = oracle.expected_of_scheme(got, case.scheme, case.ids, decrypt=True)
    assert torch.equal(back, x)
    normalised = oracle.expected_of_scheme(
        x, case.scheme, case.ids, dtype=torch.float32, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)
    )
    by_hand_ = version1.output(y, scale, "float32", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert torch.equal(normalised, torch.from_numpy(by_hand_).permute(0, 3, 1, 2))
