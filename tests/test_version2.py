"""Scheme version 2 on every backend and instruction-set level, exactly as the oracle has it."""

from __future__ import annotations

import copy
import enum
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import blockenc
from blockenc import Cipher, Scheme
from blockenc.cipher import MOST_KEPT
from blockenc.keys.keystream import PART, PythonKeystreams, keystreams_of
from blockenc.plan import Plan
from blockenc.reference import version1
from blockenc.steps import Np, Scramble, Shuffle
from tests import oracle, schemes

PINNED = json.loads((Path(__file__).parent / "vectors" / "scheme_v2.json").read_text())["cases"]
DTYPES = {name: getattr(torch, name) for name in schemes.DTYPES}


def strided(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same images in other memory."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # within a larger tensor, of a stride of 2 in the last dimension
        large = torch.zeros(*x.shape[:2], x.shape[2] + 3, 2 * x.shape[3] + 1, dtype=x.dtype)
        large[:, :, 1:-2, 1::2] = x
        return large[:, :, 1:-2, 1::2]
    return x


def cipher_of(case: schemes.Case, backend: str | None = None) -> Cipher:
    try:
        scheme = Scheme.from_dict(case.scheme)
    except ValueError as error:
        assume("changes nothing" not in str(error))
        raise
    return Cipher(oracle.KEY, scheme, backend=backend, per_image=case.ids is not None)


def check(case: schemes.Case, backend: str, layout: str = "contiguous", dtype: str | None = None) -> None:
    """Encrypting and decrypting are what the oracle says."""
    cipher, x = cipher_of(case, backend), oracle.image(case.shape, DTYPES[case.dtype])
    target = None if dtype is None else DTYPES[dtype]
    if target is not None and not target.is_floating_point and x.is_floating_point():
        target = None
    norm = ((0.5,) * case.shape[1], (0.25,) * case.shape[1]) if target in oracle_floats else (None, None)
    want = target or (torch.uint16 if case.decimal and not x.is_floating_point() else x.dtype)
    if case.decimal and want == torch.uint8:
        want = torch.uint16
    y = cipher.encrypt(strided(x, layout), dtype=want, mean=norm[0], std=norm[1], ids=case.ids)
    expected = oracle.expected_of_scheme(x, case.scheme, case.ids, dtype=want, mean=norm[0], std=norm[1])
    assert torch.equal(y, expected), case
    if norm[0] is None and want in (x.dtype, torch.uint16):
        back = torch.uint8 if y.dtype == torch.uint16 else x.dtype
        z = cipher.decrypt(strided(y, layout), dtype=back, ids=case.ids)
        assert torch.equal(z, oracle.expected_of_scheme(y, case.scheme, case.ids, decrypt=True, dtype=back))
        if not x.is_floating_point():
            assert torch.equal(z, x)


oracle_floats = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("case", PINNED, ids=lambda case: case["name"])
def test_pinned(case: dict, backend: str) -> None:
    """The vectors that fix how docs/scheme.md is read."""
    k = np.arange(np.prod(case["shape"]), dtype=np.int64)
    x = torch.from_numpy(((k * k + 7 * k) % 251).astype(np.uint8).reshape(case["shape"]))
    scheme = Scheme.from_dict(
        {"version": 2, "block_size": case["block_size"], "channels": x.shape[1], "steps": case["steps"]}
    )
    ids = [bytes.fromhex(text) for text in case["ids_hex"]] if "ids_hex" in case else None
    cipher = Cipher(bytes(range(32)), scheme, backend=backend, per_image=ids is not None)
    y = cipher.encrypt(x, ids=ids)
    assert y.flatten()[:16].tolist() == case["first"]
    assert hashlib.sha256(y.numpy().tobytes()).hexdigest() == case["sha256"]
    assert torch.equal(cipher.decrypt(y, ids=ids), x)


@pytest.mark.parametrize("name", schemes.NOTABLE)
def test_notable(name: str, backend: str) -> None:
    check(schemes.NOTABLE[name], backend)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    case=schemes.cases(),
    layout=st.sampled_from(("contiguous", "channels_last", "sliced")),
    dtype=st.sampled_from((None, *schemes.DTYPES)),
)
def test_any_scheme(backend: str, case: schemes.Case, layout: str, dtype: str | None) -> None:
    assume(not (case.decimal and case.ids is not None))
    check(case, backend, layout, dtype)


def test_float64() -> None:
    for name, case in schemes.NOTABLE.items():
        if case.ids is not None or case.quantises:
            continue
        cipher, x = cipher_of(case), oracle.image(case.shape, torch.float32)
        y = cipher.encrypt(x.double())
        assert y.dtype == torch.float64
        assert torch.allclose(y.float(), cipher.encrypt(x), atol=1e-6), name
        assert torch.allclose(cipher.decrypt(y), x.double(), atol=1e-15), name


def test_one_call() -> None:
    """blockenc.encrypt with ids is a cipher of per-image keys."""
    x, ids = oracle.image((2, 3, 8, 8)), ["a", 7]
    y = blockenc.encrypt(x, oracle.KEY, ids=ids)
    assert torch.equal(y, Cipher(oracle.KEY, per_image=True).encrypt(x, ids=["a", b"7"]))
    assert torch.equal(blockenc.decrypt(y, oracle.KEY, ids=ids), x)
    assert not torch.equal(y[0], blockenc.encrypt(x[0], oracle.KEY))


def test_ids_that_are_wrong() -> None:
    cipher, x = Cipher(oracle.KEY, per_image=True), oracle.image((2, 3, 8, 8))
    with pytest.raises(TypeError, match=r"^ids: expected an id for each of 2 images"):
        cipher.encrypt(x)
    with pytest.raises(ValueError, match=r"^ids: expected an id for each of 2 images, got 3"):
        cipher.encrypt(x, ids=[1, 2, 3])
    for bad in (True, 1.5, None, -1):
        with pytest.raises((TypeError, ValueError), match=r"^ids\[1\]: expected"):
            cipher.encrypt(x, ids=[1, bad])
    with pytest.raises(TypeError, match=r"^ids: go with"):
        Cipher(oracle.KEY).encrypt(x, ids=[1, 2])
    with pytest.raises(ValueError, match=r"^per_image: "):
        Cipher(oracle.KEY, ffx="decimal", per_image=True)
    for key in (blockenc.ExplicitKey([range(48)]), blockenc.KeySet.from_seed(7, "password")):
        with pytest.raises(ValueError, match=r"^per_image: .*nothing is derived"):
            Cipher(key, steps=["shuffle"], per_image=True)
    assert cipher.encrypt(x[:0], ids=[]).shape == (0, 3, 8, 8)
    assert torch.equal(cipher.encrypt(x[0], ids=5), cipher.encrypt(x[:1], ids=["5"])[0])


def test_images_of_several_sizes() -> None:
    """A period that is the whole image has another secret for another size; kept plans are bounded."""
    scheme = Scheme(4, [blockenc.steps.Scramble(period="image"), "np"])
    cipher = Cipher(oracle.KEY, scheme)
    for side in range(4, 4 * 45, 4):
        x = oracle.image((1, 3, side, 8))
        assert torch.equal(cipher.encrypt(x), oracle.expected_of_scheme(x, scheme.to_dict()))
    from blockenc.cipher import MOST_KEPT

    assert len(cipher._plans) <= MOST_KEPT
    assert len(cipher._compiled) <= MOST_KEPT


def test_schemes_that_are_wrong() -> None:
    from blockenc.steps import Colour, Np, Scramble, Shuffle

    for make, message in (
        (lambda: Scheme(4, ["scramble"]), "changes nothing"),
        (lambda: Scheme(4, [Np(unit="block")]), "changes nothing"),
        (
            lambda: Scheme(4, [Shuffle(period=6)]),
            r"steps\[0\]: period: expected a multiple of the block size 4",
        ),
        (lambda: Scheme(4, [Shuffle(cells="bit")]), "cells: expected one of 'byte', 'nibble', got 'bit'"),
        (lambda: Scheme(4, [Scramble(period="images")]), "period: expected"),
        (lambda: Scheme(4, [Colour()], channels=13), "at most 12 channels"),
        (lambda: Scheme(4, ["ffx", Np()], ffx="decimal"), "cannot follow a decimal ffx"),
        (lambda: Scheme.from_dict({"version": 3}), "version: this release knows"),
        (lambda: Scheme.from_dict({"version": 2, "ffx": "byte"}), "expected fields out of"),
        (
            lambda: Scheme.from_dict({"version": 2, "steps": [{"kind": "np", "uint": 1}]}),
            r"steps\[0\]: expected",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()


class Cells(str, enum.Enum):
    """A user's own enumeration, as typer's options are."""

    nibble = "nibble"
    image = "image"
    decimal = "decimal"


def test_enumerations_encrypt_as_the_strings_they_equal() -> None:
    x = oracle.image((1, 3, 8, 8))
    ours = Scheme(4, [Np(cells=Cells.nibble), Scramble(period=Cells.image)])
    spelled = Scheme(4, [Np(cells="nibble"), Scramble(period="image")])
    assert ours.infos(8, 8) == spelled.infos(8, 8)
    assert torch.equal(Cipher(oracle.KEY, ours).encrypt(x), Cipher(oracle.KEY, spelled).encrypt(x))
    assert type(Scheme(steps=["shuffle"], ffx=Cells.decimal).ffx) is str


@pytest.mark.parametrize("bound", [3 << 30, 7])
def test_rejected_words_are_replaced_by_those_that_follow(bound: int) -> None:
    """Of 3 * 2^30 every fourth word is rejected; over more than one part of the keystream, of two rows."""
    subkeys, bounds = [bytes(range(32)), bytes(32)], np.full(3 * PART, bound)
    for make in (PythonKeystreams, keystreams_of):
        for subkey, got in zip(subkeys, make(b"".join(subkeys)).uniforms(bounds).tolist()):
            uniform = version1.uniform_words(subkey)
            assert got == [uniform(bound) for _ in range(3 * PART)]


def test_a_period_that_memory_could_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^period: .*16384 x 16384 pixels"):
        Cipher(oracle.KEY, Scheme(4, [Np(period=16384)]))
    with pytest.raises(ValueError, match=r"^period: "):
        Cipher(oracle.KEY, Scheme(4, [Np(period="image")])).plans(16384, 16384)


def test_a_layer_for_one_size_takes_no_other() -> None:
    """Also none with as many blocks, and also where the size is that of a single block."""
    for steps, size in (
        ([Scramble(period="image")], (32, 32)),
        ([Np(block_size=4, period="image"), Shuffle(block_size=16)], (16, 16)),
    ):
        cipher = Cipher(oracle.KEY, Scheme(4, steps))
        for form in ("op", "aten"):
            layer, x = blockenc.nn.Encrypt(cipher, size=size, form=form), oracle.image((1, 3, *size))
            assert torch.equal(layer(x), cipher.encrypt(x))
            for other in ((16, 64), (64, 64)):
                with pytest.raises(ValueError, match=r"^x: .*made for images of"):
                    layer(oracle.image((1, 3, *other)))
        with pytest.raises(TypeError, match=r"^size: expected \(height, width\)"):
            blockenc.nn.Encrypt(cipher, size=32)


def test_copies_keep_the_key_and_pickles_what_was_prepared() -> None:
    x = oracle.image((1, 3, 8, 16))
    cipher = Cipher(oracle.KEY, Scheme(4, [Scramble(period="image")]))
    for copied in (copy.copy(cipher), copy.deepcopy(cipher)):
        assert torch.equal(copied.encrypt(x), cipher.encrypt(x))
    per_image = Cipher(oracle.KEY, per_image=True)
    assert torch.equal(copy.copy(per_image).encrypt(x, ids=1), per_image.encrypt(x, ids=1))
    sizes = [(4 * n, 8) for n in range(1, 2 * MOST_KEPT)]
    for size in sizes:
        cipher.prepare(*size)
    pickled = pickle.loads(pickle.dumps(cipher))
    for size in sizes:
        assert len(pickled.plans(*size)) == 1


@pytest.mark.parametrize("backend", ["numba", "aten"])
def test_a_plan_written_to_while_it_is_read_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check of its header and the reading of it."""
    packed = torch.from_numpy(Cipher(oracle.KEY, block_size=4).plan().packed.copy())
    other = torch.from_numpy(Cipher(oracle.KEY, block_size=2).plan().packed.copy())
    unpack = Plan.unpack

    def written(*arguments: object) -> Plan:
        return unpack(other.numpy(), *arguments[1:])

    monkeypatch.setattr(Plan, "unpack", written)
    with pytest.raises(ValueError, match=r"^plan: it was written to"):
        torch.ops.blockenc.apply(oracle.image((1, 3, 8, 8)), packed, torch.uint8, backend)


def test_explicit_secrets_have_the_shape_of_the_period() -> None:
    masks = np.arange(4 * 48).reshape(4, 48) % 2
    scheme = Scheme(4, [Np(period="image")])
    Cipher(blockenc.ExplicitKey([masks]), scheme).plans(8, 8)
    with pytest.raises(ValueError, match=r"secrets\[0\].*shape \(4, 48\), got int64 \(48, 4\)"):
        Cipher(blockenc.ExplicitKey([masks.T]), scheme).plans(8, 8)


def test_kinds_of_ids() -> None:
    cipher, x = Cipher(oracle.KEY, per_image=True), oracle.image((3, 8, 8))
    want = cipher.encrypt(x, ids=5)
    for one in (np.int64(5), torch.tensor(5), "5", b"5", [5], torch.tensor([5])):
        assert torch.equal(cipher.encrypt(x, ids=one), want)
    for bad in ({5}, {5: 5}, 5.0, None):
        with pytest.raises(TypeError, match=r"^ids(\[0\])?: expected"):
            cipher.encrypt(x, ids=bad)


def test_steps_have_an_order() -> None:
    for steps in ({"shuffle", "np"}, {"shuffle": 1}):
        with pytest.raises(TypeError, match=r"^steps: expected a sequence"):
            Scheme(steps=steps)
    with pytest.raises(ValueError, match=r"^steps: expected names.*\['np'\]"):
        blockenc.encrypt(oracle.image((1, 3, 8, 8)), oracle.KEY, steps=("shuffle", ["np"]))
