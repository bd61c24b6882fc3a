"""Every backend against the oracle, exactly: block sizes, channels, orders, layouts, value types."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blockenc
from blockenc.plan import Plan
from blockenc.plan.algebra import compose, invert
from blockenc.plan.compilation import compile_plan
from blockenc.reference import version1
from tests import oracle

STEPS = ("shuffle", "np", "ffx")
ORDERS = [order for r in (1, 2, 3) for order in itertools.permutations(STEPS, r)]
REPEATS = [("np", "np", "np"), ("ffx", "np", "ffx"), ("ffx", "shuffle", "np", "shuffle")]
BLOCK_SIZES = (1, 2, 3, 4, 7, 8, 14, 16, 32)
MEAN, STD = (0.485, 0.456, 0.406, 0.5), (0.229, 0.224, 0.225, 0.25)
GUARD = 0x5A


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same image in other memory: an odd offset in a larger buffer, channels last, strides of 2, ..."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c + 1, h + 3, 2 * w + 5, dtype=x.dtype)
    sliced = wide[:, 1:, 2 : 2 + h, 3 : 3 + 2 * w : 2]
    sliced.copy_(x)
    odd = torch.zeros(x.numel() + 7, dtype=x.dtype)[7:].view_as(x)
    odd.copy_(x)
    return {
        "contiguous": x.contiguous(),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "odd offset": odd,
        "sliced": sliced,
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
    }


def guarded(layout: torch.Tensor, dtype: torch.dtype, offset: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    """A place for a result with the strides of `layout`, inside a buffer of guard bytes, `offset` elements
    from where that begins; and the buffer."""
    span = sum((size - 1) * stride for size, stride in zip(layout.shape, layout.stride())) + 1
    item = torch.empty(0, dtype=dtype).element_size()
    buffer = torch.from_numpy(np.full((span + 64) * item, GUARD, np.uint8))
    return buffer.view(dtype).as_strided(layout.shape, layout.stride(), storage_offset=offset), buffer


def check_guards(out: torch.Tensor, buffer: torch.Tensor) -> None:
    """Nothing in the buffer but the elements of `out` was written."""
    out.zero_()
    written = np.count_nonzero(
        buffer.numpy() == 0
    )  # NumPy: torch's threads wait for each other on busy cores
    assert written == out.nbytes
    assert np.count_nonzero(buffer.numpy() == GUARD) == buffer.numel() - written


@pytest.mark.parametrize("channels", (1, 2, 3, 4))
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_bytes(backend: str, block_size: int, channels: int) -> None:
    """uint8 to uint8: every order of the steps, every layout, both directions, guard bytes around."""
    x = oracle.image((2, channels, 3 * block_size, 5 * block_size), seed=block_size)
    for steps in ORDERS + REPEATS:
        secrets = oracle.secrets(steps, block_size, channels)
        want = oracle.expected(x, secrets, block_size)
        back = oracle.expected(want, secrets, block_size, decrypt=True)
        assert torch.equal(back, x)
        scheme = blockenc.Scheme(block_size=block_size, steps=steps, channels=channels)
        cipher = blockenc.Cipher(oracle.KEY, scheme, backend=backend)
        for name, layout in layouts(x).items():
            result = cipher.encrypt(layout)
            assert torch.equal(result, want), (steps, name)
            assert result.stride() == torch.empty_like(layout).stride()
            out, buffer = guarded(layout, torch.uint8)
            assert torch.equal(cipher.decrypt(result, out=out), x), (steps, name)
            check_guards(out, buffer)


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("block_size", (1, 2, 3, 4, 7, 16))
@pytest.mark.parametrize("ffx", ("byte", "decimal"))
def test_value_types(backend: str, ffx: str, block_size: int, channels: int) -> None:
    """Float images, the decimal profile, the fused output stage; both directions."""
    shape = (2, channels, 3 * block_size, 5 * block_size)
    output = {"mean": MEAN[:channels], "std": STD[:channels]}
    for steps in ORDERS + REPEATS:
        if ffx == "decimal" and (
            "ffx" not in steps or not set(steps[steps.index("ffx") + 1 :]) <= {"shuffle"}
        ):
            continue
        secrets = oracle.secrets(steps, block_size, channels, ffx)
        fields = {"block_size": block_size, "channels": channels, "steps": steps, "ffx": ffx}
        cipher = blockenc.Cipher(oracle.KEY, **fields, backend=backend)
        integers = torch.uint16 if ffx == "decimal" else torch.uint8
        for dtype in (torch.uint8, *oracle.FLOATS):
            x = oracle.image(shape, dtype, seed=block_size)
            results = [integers] if dtype == torch.uint8 else [integers] if "ffx" in steps else []
            for result in (*results, *oracle.FLOATS):
                want = oracle.expected(x, secrets, block_size, ffx=ffx, dtype=result)
                got = cipher.encrypt(x, dtype=result)
                assert same(got, want), (steps, dtype, result)
                if got.is_floating_point():
                    back = oracle.expected(got, secrets, block_size, ffx=ffx, decrypt=True)
                    assert same(cipher.decrypt(got), back), (steps, dtype, result)
                    layout = layouts(x)["sliced"]
                    normal, buffer = guarded(layout, result)
                    want = oracle.expected(x, secrets, block_size, ffx=ffx, dtype=result, **output)
                    assert same(cipher.encrypt(layout, out=normal, **output), want), (steps, dtype, result)
                    check_guards(normal, buffer)
                else:
                    back = oracle.expected(got, secrets, block_size, ffx=ffx, decrypt=True, dtype=torch.uint8)
                    assert same(cipher.decrypt(got, dtype=torch.uint8), back), (steps, dtype, result)
                    if dtype == torch.uint8:
                        assert same(back, x)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("steps", [*ORDERS, *REPEATS, ("np", "np"), ("ffx", "np")], ids=",".join)
def test_floats_of_bytes_are_bytes(backend: str, steps: tuple[str, ...]) -> None:
    """All 256 bytes as floats k/255, as ToTensor makes them: encryption gives what it makes of the bytes, bit
    for bit, and decryption the very floats."""
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    cipher = blockenc.Cipher(oracle.KEY, steps=steps, backend=backend)
    for dtype in oracle.FLOATS:
        floats = x.to(dtype) / 255
        encrypted = cipher.encrypt(floats)
        assert same(encrypted, cipher.encrypt(x, dtype=dtype)), dtype
        assert same(cipher.decrypt(encrypted), floats), dtype
        assert same(cipher.decrypt(encrypted), cipher.decrypt(cipher.encrypt(x), dtype=dtype)), dtype
        if "ffx" in steps:
            assert same(cipher.encrypt(floats, dtype=torch.uint8), cipher.encrypt(x)), dtype
    output = {"mean": MEAN[:3], "std": STD[:3]}
    assert same(cipher.encrypt(x.float() / 255, **output), cipher.encrypt(x, dtype=torch.float32, **output))


def test_decimal_floats_decrypt_exactly(backend: str) -> None:
    """value / m in any float type wide enough comes back as the very byte."""
    x = oracle.image((4, 3, 32, 32))
    for password in ("password", "another", "x"):
        cipher = blockenc.Cipher(blockenc.KeySet.from_seed(1, password), ffx="decimal", backend=backend)
        for dtype in (torch.float32, torch.float16):
            assert torch.equal(cipher.decrypt(cipher.encrypt(x, dtype=dtype), dtype=torch.uint8), x)


def test_byte_floats_decrypt_exactly(backend: str) -> None:
    """Quantised values survive even bfloat16, because decryption rounds to nearest."""
    x = oracle.image((4, 3, 32, 32))
    cipher = blockenc.Cipher(oracle.KEY, backend=backend)
    for dtype in oracle.FLOATS:
        assert torch.equal(cipher.decrypt(cipher.encrypt(x, dtype=dtype), dtype=torch.uint8), x)


def test_damaged_values_are_clamped(backend: str) -> None:
    """Values no encryption gives (all 16-bit ones; floats beyond [0, 1], NaN) decrypt as the oracle says."""
    cipher = blockenc.Cipher(oracle.KEY, ffx="decimal", block_size=2, backend=backend, check_values=False)
    secrets = oracle.secrets(cipher.scheme.steps, 2, 3, "decimal")
    every = torch.arange(3 * 128 * 512, dtype=torch.int32).remainder(65536).to(torch.uint16)
    y = every.reshape(1, 3, 128, 512)
    want = oracle.expected(y, secrets, 2, ffx="decimal", decrypt=True, dtype=torch.uint8)
    assert same(cipher.decrypt(y, dtype=torch.uint8), want)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 2.0, -3.0, 1e-45, 1.0])
    for dtype in oracle.FLOATS:
        x = special.to(dtype).repeat(12).reshape(1, 3, 4, 8)
        want = oracle.expected(x, secrets, 2, ffx="decimal", dtype=torch.float32)
        assert same(cipher.encrypt(x, dtype=torch.float32), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_float_of_16_bits(dtype: torch.dtype, backend: str) -> None:
    """Also those that are no number, beyond [0, 1], subnormal, or as near to one byte as to the next."""
    cipher = blockenc.Cipher(oracle.KEY, backend=backend, check_values=False)
    secrets = oracle.secrets(cipher.scheme.steps, 4, 3)
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    x = every.repeat(3).reshape(1, 3, 128, 512)
    for out in (torch.uint8, *oracle.FLOATS):
        assert same(cipher.encrypt(x, dtype=out), oracle.expected(x, secrets, 4, dtype=out)), out


steps_strategy = st.lists(st.sampled_from(STEPS), min_size=1, max_size=5).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    steps=steps_strategy,
    block_size=st.integers(1, 12),
    channels=st.integers(1, 5),
    rows=st.integers(0, 4),
    columns=st.integers(1, 4),
    key=st.binary(min_size=32, max_size=32),
)
def test_round_trip(
    steps: tuple[str, ...], block_size: int, channels: int, rows: int, columns: int, key: bytes
) -> None:
    x = oracle.image((2, channels, rows * block_size, columns * block_size), seed=len(steps))
    cipher = blockenc.Cipher(key, block_size=block_size, steps=steps, channels=channels)
    y = cipher.encrypt(x)
    assert torch.equal(cipher.decrypt(y), x)
    keys = dict.fromkeys(STEPS, key)
    secrets = version1.secrets(keys, steps=steps, block_size=block_size, channels=channels)
    assert torch.equal(y, oracle.expected(x, secrets, block_size))


@settings(max_examples=60, deadline=None)
@given(first=steps_strategy, second=steps_strategy)
def test_plans_compose_and_invert(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """Applying two plans is applying their composition; a plan and its inverse compose to no change."""

    def apply(plan: Plan, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.blockenc.apply(x, torch.from_numpy(plan.packed), x.dtype)

    x = oracle.image((1, 3, 8, 8))
    a = compile_plan(blockenc.Scheme(block_size=4, steps=first), oracle.KEY)
    b = compile_plan(blockenc.Scheme(block_size=4, steps=second), bytes(32))
    assert torch.equal(apply(compose(a, b), x), apply(b, apply(a, x)))
    assert torch.equal(apply(invert(a), apply(a, x)), x)
    assert torch.equal(apply(compose(a, invert(a)), x), x)


def test_wrong_keys_differ() -> None:
    """A wrong key, or one wrong member of the key set, restores nothing like the image."""
    x = oracle.image((2, 3, 64, 64))
    right = blockenc.KeySet(shuffle=oracle.KEY, np=oracle.KEY, ffx=oracle.KEY)
    y = blockenc.encrypt(x, right)
    for step in STEPS:
        wrong = right.replace(**{step: bytes(32)})
        assert wrong.fingerprint != right.fingerprint
        agreement = (blockenc.decrypt(y, wrong) == x).float().mean().item()
        assert agreement < 0.6  # np and ffx leave unmasked positions, hence about a half at most
    assert (blockenc.decrypt(y, bytes(32)) == x).float().mean().item() < 0.05
