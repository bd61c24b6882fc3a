"""Keys derived and drawn from by the extension, against Python's own derivation, number by number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

import blockenc
from blockenc import Cipher
from blockenc.feistel.ff1 import byte_tables
from blockenc.hidden import reveal
from blockenc.keys import native
from blockenc.keys.keystream import NativeKeystreams, PythonKeystreams, hkdf, split
from blockenc.plan.compilation import Compiler
from tests import oracle, schemes

MANY = 101  # keys, which no number of threads divides
SUBKEYS = np.random.default_rng(0).bytes(32 * MANY)
needs_native = pytest.mark.skipif(not native.derives, reason=f"Python derives keys here: {native.missing()}")


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "derives", False)


@pytest.mark.skipif(not os.environ.get("CI"), reason="a Python without OpenSSL of its own is no fault")
def test_ci_has_the_fast_way() -> None:
    assert native.missing() == ""


@needs_native
def test_subkeys(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = ["", "blockenc/1/np", *("ünd " * n for n in range(MANY - 2))]
    ours = [reveal(hkdf(SUBKEYS[:32], infos[:count])) for count in (0, 1, MANY)]
    in_python(monkeypatch)
    assert ours == [reveal(hkdf(SUBKEYS[:32], infos[:count])) for count in (0, 1, MANY)]
    assert len(ours[2]) == len(SUBKEYS)


@needs_native
@pytest.mark.parametrize("count", [0, 1, 2, MANY])
def test_draws(count: int, threads: int) -> None:
    """One after the other, so that each begins somewhere within a block of AES."""
    ours, theirs = (make(SUBKEYS[: 32 * count]) for make in (NativeKeystreams, PythonKeystreams))
    rng = np.random.default_rng(1)
    for length in (1, 47, 2, 0, 3, 1500, 1024, 5):
        bounds = rng.integers(1, 2**32 + 1, length)
        bounds[::2] = rng.integers(1, 1000, len(bounds[::2]))
        for drawn in (lambda k, b=bounds: k.uniforms(b), lambda k, n=length: k.masks(n)):
            assert np.array_equal(drawn(ours), drawn(theirs))
        some = [keystreams.permutations(3, length) for keystreams in (ours, theirs)]
        assert np.array_equal(*some)
        assert some[0].shape == (count, 3, length)
        assert some[0].dtype == some[1].dtype


@needs_native
def test_tables(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [byte_tables(split(SUBKEYS)[:count]) for count in (0, 1, MANY)]
    in_python(monkeypatch)
    for table, count in zip(ours, (0, 1, MANY)):
        theirs = byte_tables(split(SUBKEYS)[:count]).reshape(-1, 256)
        assert np.array_equal(table, theirs)
        assert table.dtype == theirs.dtype


IDS = [b"", b"a", b"\x00\xff", *(str(n).encode() for n in range(4))]


@needs_native
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=schemes.cases(decimal=False))
def test_plans_of_any_scheme(case: schemes.Case) -> None:
    try:
        scheme = blockenc.Scheme.from_dict(case.scheme)
    except ValueError as error:  # a scramble of single blocks, for instance
        assume("changes nothing" not in str(error))
        raise
    for images in (None, IDS[:1], IDS[:7]):
        with pytest.MonkeyPatch.context() as patch:
            ours = Compiler(scheme, oracle.KEY, images).plans(*case.shape[2:])
            in_python(patch)
            theirs = Compiler(scheme, oracle.KEY, images).plans(*case.shape[2:])
        for decrypt in (False, True):
            assert len(ours[decrypt]) == len(theirs[decrypt])
            for one, other in zip(ours[decrypt], theirs[decrypt]):
                assert np.array_equal(one.packed, other.packed)


@needs_native
def test_ids_that_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    cipher, x = Cipher(oracle.KEY, per_image=True), oracle.image((5, 3, 8, 8))
    ids = ["a", "", "a", 7, b"7"]
    ours = cipher.encrypt(x, ids=ids)
    in_python(monkeypatch)
    assert torch.equal(ours, cipher.encrypt(x, ids=ids))


@needs_native
def test_bad_arguments() -> None:
    """None that this library gives: the extension reads and writes memory by them."""
    draw, used, drawn = native.extension, np.zeros(2, np.int64), np.zeros((2, 3), np.int64)
    two, bounds = bytes(64), np.full(3, 5)
    bounds.flags.writeable = False
    draw.draw_uniforms(two, used, bounds, drawn, 1)
    for message, call in (
        ("subkeys", lambda: draw.draw_uniforms(bytes(63), used, bounds, drawn, 1)),
        ("used", lambda: draw.draw_uniforms(bytes(32), used, bounds, drawn, 1)),
        ("drawn", lambda: draw.draw_uniforms(two, used, bounds, drawn[:, :2].copy(), 1)),
        ("drawn", lambda: draw.draw_uniforms(two, used, bounds, drawn.astype(np.int32), 1)),
        ("drawn", lambda: draw.draw_uniforms(two, used, bounds, np.zeros((3, 2), np.int64).T, 1)),
        ("bounds", lambda: draw.draw_uniforms(two, used, np.array([1, 0, 3]), drawn, 1)),
        ("bounds", lambda: draw.draw_uniforms(two, used, np.array([1, 2**32 + 1, 3]), drawn, 1)),
        ("drawn", lambda: draw.draw_permutations(two, used, drawn, 1, 4, 1)),
        ("permutations, length", lambda: draw.draw_permutations(two, used, drawn, 1, -3, 1)),
        ("permutations, length", lambda: draw.draw_permutations(two, used, drawn, 2**31, 2**31, 1)),
        ("used", lambda: draw.draw_permutations(two, np.array([0, -1]), drawn, 1, 3, 1)),
        ("tables", lambda: draw.make_byte_tables(two, np.zeros(511, np.uint16), 1)),
        ("extracted", lambda: draw.expand(two, ["info"], 1)),
    ):
        with pytest.raises(ValueError, match=f"^{message}: expected"):
            call()
    frozen = drawn.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        draw.draw_uniforms(two, used, bounds, frozen, 1)


WITHOUT = """
import os
import sys
import numpy as np
import torch  # which brings all of the standard library that wants OpenSSL; once, as it takes seconds
for lacks in sys.argv[1:]:
    sys.stdout.flush()
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    if lacks == "no OpenSSL":
        sys.modules["_hashlib"] = None
    elif lacks == "no extension":
        sys.modules["blockenc._native"] = None
    else:
        import _hashlib
        _hashlib.__file__ = lacks
    import blockenc
    from blockenc.keys import native
    assert not native.derives
    print(native.missing())
    cipher = blockenc.Cipher(bytes(range(32)), per_image=True)
    print(cipher.encrypt(np.zeros((2, 8, 8, 3), np.uint8), ids=["a", "b"]).tobytes().hex())
    break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_without_libcrypto(tmp_path: Path) -> None:
    """Python gives the same bytes, and says why it had to."""
    if native.extension is None:
        pytest.skip("the extension is not built")
    reasons = {
        "no OpenSSL": "this Python has no OpenSSL",
        "no extension": "the extension is not built",
        str(tmp_path / "no.so"): "no.so: cannot open shared object file",
        native.extension.__file__: "it has no EVP_",  # another library
    }
    command = [sys.executable, "-c", WITHOUT, *reasons]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    cipher = Cipher(bytes(range(32)), per_image=True)
    same = cipher.encrypt(np.zeros((2, 8, 8, 3), np.uint8), ids=["a", "b"]).tobytes().hex()
    assert len(said) == 2 * len(reasons)
    for reason, found in zip(reasons.values(), said[::2]):
        assert reason in found
    assert said[1::2] == [same] * len(reasons)
