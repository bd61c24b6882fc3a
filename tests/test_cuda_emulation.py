"""The CUDA kernels, emulated on the CPU, against the oracle; and the emulation's own detectors."""

from __future__ import annotations

import ctypes
import dataclasses
import types

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import blockenc
from benchmarks.speed import cuda as benchmark
from benchmarks.speed.cuda_tunings import tunings
from benchmarks.speed.peers import Case
from benchmarks.speed.rows import Row
from blockenc.backends import cuda
from blockenc.plan.packing import HEADER_BYTES
from tests import cuda_emulation, oracle, schemes, test_version2
from tests.test_kinds import test_torch_layouts as test_torch_layouts
from tests.test_oracle_grid import (
    MEAN,
    ORDERS,
    REPEATS,
    STD,
    check_guards,
    guarded,
    layouts,
    same,
)
from tests.test_oracle_grid import test_bytes as test_bytes
from tests.test_oracle_grid import test_damaged_values_are_clamped as test_damaged_values_are_clamped
from tests.test_oracle_grid import test_floats_of_bytes_are_bytes as test_floats_of_bytes_are_bytes
from tests.test_oracle_grid import test_value_types as test_value_types


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> cuda_emulation.Emulated:
    """The cuda backend with the emulation in the place of blockenc._cuda, working on CPU tensors."""
    kernels = cuda_emulation.Emulated()
    cuda_emulation.library()
    monkeypatch.setattr(cuda, "_cuda", kernels)
    monkeypatch.setattr(cuda, "DEVICES", ("cpu",))
    monkeypatch.setattr(cuda, "missing", lambda: "")
    stream = types.SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return kernels


@pytest.fixture
def backend() -> str:
    return "cuda"


FAULTS = (
    "misaligned access to global",
    "out of bounds in global",
    "out of bounds in shared",
    "misaligned access to shared",
    "uninitialised",
    "divergent barrier: some",
    "divergent barrier: not",
    "race in shared memory: read",
    "race in shared memory: write",
    "race in shared memory: write",
    "copy not waited for: read",
    "copy not waited for: read",
    "copy not waited for: read",
    "copy not waited for: write",
    "race in shared memory: read",
)


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_planted_faults_are_found(number: int) -> None:
    with pytest.raises(cuda_emulation.Fault, match=FAULTS[number]):
        cuda_emulation.check(cuda_emulation.library().emulated_fault(number))


def test_a_right_kernel_passes() -> None:
    assert cuda_emulation.check(cuda_emulation.library().emulated_fault(-1)) == 0


def width(block_size: int) -> int:
    """The least width of whole blocks and whole vectors, whatever the type."""
    return next(w for w in range(block_size, 16 * block_size + 1, block_size) if w % 16 == 0)


@pytest.mark.parametrize("channels", (1, 2, 3, 4))
@pytest.mark.parametrize("block_size", (1, 2, 3, 4, 7, 8, 14, 16, 32))
@pytest.mark.parametrize("grid", (1, 3))
def test_tiles_of_bytes(emulated: cuda_emulation.Emulated, block_size: int, channels: int, grid: int) -> None:
    """The vector path, both layouts: more tiles than blocks, a last tile that is not full, guard bytes."""
    emulated.grid = grid
    x = oracle.image((2, channels, 3 * block_size, 3 * width(block_size)), seed=block_size)
    for steps in (ORDERS + REPEATS)[:: 1 if block_size < 8 else 4]:
        secrets = oracle.secrets(steps, block_size, channels)
        want = oracle.expected(x, secrets, block_size)
        cipher = blockenc.Cipher(
            oracle.KEY, block_size=block_size, steps=steps, channels=channels, backend="cuda"
        )
        for layout in ("contiguous", "channels_last"):
            given = layouts(x)[layout]
            emulated.paths.clear()
            assert torch.equal(cipher.encrypt(given), want), (steps, layout)
            out, buffer = guarded(given, torch.uint8, offset=32)  # aligned
            assert torch.equal(cipher.decrypt(cipher.encrypt(given), out=out), x), (steps, layout)
            check_guards(out, buffer)
            assert set(emulated.paths) == {"tiles"}


TUNINGS = tunings(processors=6)


@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.parametrize("block_size", (2, 4, 7, 14, 16, 32))
def test_tunings(emulated: cuda_emulation.Emulated, block_size: int, name: str) -> None:
    """Every way to run the kernel gives the same bytes, over several tiles, the last not full, out to guarded
    memory, in both layouts and between strides; and spreads a batch that can be."""
    emulated.grid = 2
    x = oracle.image((3, 3, 3 * block_size, 3 * width(block_size)), seed=block_size)
    want = oracle.expected(x, oracle.secrets(("shuffle", "np", "ffx"), block_size, 3), block_size)
    cipher = blockenc.Cipher(oracle.KEY, block_size=block_size, backend="cuda")
    wide = torch.zeros(3, 3, 3 * block_size, 4 * width(block_size), dtype=torch.uint8)
    wide[..., : x.shape[-1]] = x
    sliced = wide[..., : x.shape[-1]]
    for given_x in (x, x.contiguous(memory_format=torch.channels_last), sliced):
        out, buffer = guarded(given_x, torch.uint8, offset=32)  # aligned
        call = benchmark.tuned(lambda x=given_x, out=out: cipher.encrypt(x, out=out), TUNINGS[name])
        assert torch.equal(call(), want)
        check_guards(out, buffer)
    assert set(emulated.paths) == {"tiles"}
    least, ahead = TUNINGS[name][2], TUNINGS[name][4]
    assert set(emulated.ahead) == {ahead}
    assert least == 1 or block_size != 4 or min(emulated.tiles) >= least
    assert cuda.tuning is None


@pytest.mark.parametrize("grid", (1, 2, 3))
@pytest.mark.parametrize("name", [name for name in TUNINGS if TUNINGS[name][4]])
def test_many_tiles_ahead(emulated: cuda_emulation.Emulated, name: str, grid: int) -> None:
    """Asynchronous copies of more tiles than there are places for, and of more items than threads."""
    emulated.grid = grid
    x = oracle.image((3, 3, 12, 48), seed=grid)
    want = oracle.expected(x, oracle.secrets(("shuffle", "np", "ffx"), 4, 3), 4)
    cipher = blockenc.Cipher(oracle.KEY, backend="cuda")
    call = benchmark.tuned(lambda: cipher.encrypt(x.repeat(24, 1, 1, 1)), TUNINGS[name])
    assert torch.equal(call(), want.repeat(24, 1, 1, 1))
    assert emulated.tiles == [6 if TUNINGS[name][1] == 24 * 1024 else 11]
    assert emulated.ahead == [TUNINGS[name][4]]


def test_tiles_that_do_not_fit_are_not_ahead(emulated: cuda_emulation.Emulated) -> None:
    """Four strips are the fewest of a tile: with M = 14 and four channels two such tiles are too large."""
    x = oracle.image((2, 4, 28, 112))
    want = oracle.expected(x, oracle.secrets(("shuffle", "np", "ffx"), 14, 4), 14)
    cipher = blockenc.Cipher(oracle.KEY, block_size=14, channels=4, backend="cuda")
    for ahead in (1, 2):
        call = benchmark.tuned(lambda: cipher.encrypt(x), (256, 12 * 1024, 1, False, ahead))
        assert torch.equal(call(), want)
    assert emulated.paths == ["tiles", "tiles"]
    assert emulated.ahead == [1, 0]


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32))
def test_other_types_are_not_tuned(emulated: cuda_emulation.Emulated, dtype: torch.dtype) -> None:
    """There are no instances for them: a tuning changes neither values nor tiles."""
    x = oracle.image((8, 3, 32, 64))  # several tiles
    cipher = blockenc.Cipher(oracle.KEY, backend="cuda")
    for tuning in TUNINGS.values():
        plain = cipher.encrypt(x, dtype=dtype)
        assert torch.equal(benchmark.tuned(lambda: cipher.encrypt(x, dtype=dtype), tuning)(), plain)
    assert set(emulated.paths) == {"tiles"}
    assert len(set(emulated.tiles)) == 1
    assert set(emulated.ahead) == {0}


def test_a_small_batch_is_spread(emulated: cuda_emulation.Emulated) -> None:
    """What docs/cuda.md says of a CIFAR batch on a device of 132 multiprocessors."""
    x = oracle.image((128, 3, 32, 32))
    cipher = blockenc.Cipher(oracle.KEY, backend="cuda")
    for name in ("default again", "spread", "spread twice"):
        benchmark.tuned(lambda: cipher.encrypt(x), tunings(132)[name])()
    assert emulated.tiles == [16, 128, 256]


def test_the_benchmark_measures_all_tunings(
    emulated: cuda_emulation.Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPU tensors, with the clock left out: each call takes its own way, and wrong values are refused."""
    row = Row("CIFAR", 4, 4)
    x = oracle.image(row.shape)
    device = types.SimpleNamespace(multi_processor_count=6)
    monkeypatch.setattr(benchmark, "make_case", lambda row: Case(row, x, torch.empty_like(x)))
    monkeypatch.setattr(benchmark, "medians", lambda calls, rounds: dict.fromkeys(calls, 1.0))
    monkeypatch.setattr(benchmark, "asking", lambda call, rounds: 1.0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    result = benchmark.measure(row, 1, (), tune=True)
    assert list(result["milliseconds"]) == ["copy_", "blockenc", *TUNINGS]
    tiles = dict(zip(["blockenc", *TUNINGS], emulated.tiles, strict=True))
    assert tiles["blockenc"] == tiles["default again"] < tiles["spread"] < tiles["spread twice"]
    monkeypatch.setattr(benchmark, "tuned", lambda call, tuning: lambda: call() + 1)
    with pytest.raises(RuntimeError, match="'default again' gives other values"):
        benchmark.measure(row, 1, (), tune=True)


@pytest.mark.parametrize(
    "tuning",
    ((384, 24 * 1024, 1, False, 0), (128, 24 * 1024, 1, True, 0), (384, 12 * 1024, 1, True, 2)),
)
def test_a_tuning_without_an_instance_is_refused(
    emulated: cuda_emulation.Emulated, tuning: tuple[int, int, int, bool, int]
) -> None:
    cipher = blockenc.Cipher(oracle.KEY, backend="cuda")
    with pytest.raises(blockenc.BackendError, match="tuning: expected one with an instance"):
        benchmark.tuned(lambda: cipher.encrypt(oracle.image((1, 3, 16, 16))), tuning)()


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("block_size", (1, 2, 4, 7, 16))
@pytest.mark.parametrize("ffx", ("byte", "decimal"))
def test_tiles_of_values(emulated: cuda_emulation.Emulated, ffx: str, block_size: int, channels: int) -> None:
    """The vector path with every value type, in and out, normalised or not, both profiles."""
    x8 = oracle.image((2, channels, 2 * block_size, 2 * width(block_size)), seed=block_size)
    output = {"mean": MEAN[:channels], "std": STD[:channels]}
    for steps in (("shuffle",), ("np", "np", "shuffle"), ("shuffle", "np", "ffx")):
        if ffx == "decimal" and "ffx" not in steps:
            continue
        secrets = oracle.secrets(steps, block_size, channels, ffx)
        fields = {"block_size": block_size, "channels": channels, "steps": steps, "ffx": ffx}
        cipher = blockenc.Cipher(oracle.KEY, **fields, backend="cuda")
        integers = torch.uint16 if ffx == "decimal" else torch.uint8
        for dtype in (torch.uint8, *oracle.FLOATS):
            x = x8 if dtype == torch.uint8 else oracle.image(tuple(x8.shape), dtype, seed=block_size)
            whole = dtype == torch.uint8 or "ffx" in steps
            for result in ((integers,) if whole else ()) + oracle.FLOATS:
                want = oracle.expected(x, secrets, block_size, ffx=ffx, dtype=result)
                got = cipher.encrypt(x, dtype=result)
                assert same(got, want), (steps, dtype, result)
                back = torch.uint8 if not result.is_floating_point else result
                want = oracle.expected(got, secrets, block_size, ffx=ffx, decrypt=True, dtype=back)
                assert same(cipher.decrypt(got, dtype=back), want), (steps, dtype, result)
                if result.is_floating_point:
                    want = oracle.expected(x, secrets, block_size, ffx=ffx, dtype=result, **output)
                    nhwc = x.contiguous(memory_format=torch.channels_last)
                    assert same(cipher.encrypt(nhwc, dtype=result, **output), want), (steps, dtype, result)
    assert emulated.paths.count("tiles") > len(emulated.paths) * 0.9


def test_a_hostile_plan_stays_inside(
    emulated: cuda_emulation.Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random numbers behind the header of a plan, as if somebody wrote to it after it was checked: nonsense
    comes out, and nothing is touched outside the memory given."""
    names = [name for name, case in schemes.NOTABLE.items() if not (case.decimal and case.ids)]
    for seed, name in enumerate(names * 2):
        case = schemes.NOTABLE[name]
        cipher = blockenc.Cipher(
            oracle.KEY, blockenc.Scheme.from_dict(case.scheme), per_image=case.ids is not None
        )
        x = oracle.image(case.shape)
        (packed, *_) = cipher._passes(x, False, None, None, case.ids).packed
        noise = oracle.image(tuple(packed.shape), seed=seed)
        noise[:HEADER_BYTES] = packed[:HEADER_BYTES]
        for images in (x, x / 255):
            torch.ops.blockenc.apply(images, noise, torch.float32, "cuda")
    assert "elements" in emulated.paths


@pytest.mark.parametrize("name", schemes.NOTABLE)
def test_version_2(emulated: cuda_emulation.Emulated, name: str) -> None:
    for dtype in schemes.DTYPES:
        for layout in ("contiguous", "sliced"):
            test_version2.check(dataclasses.replace(schemes.NOTABLE[name], dtype=dtype), "cuda", layout)
    assert emulated.paths


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=schemes.cases(), layout=st.sampled_from(("contiguous", "channels_last", "sliced")))
def test_any_scheme(case: schemes.Case, layout: str) -> None:
    assume(not (case.decimal and case.ids is not None))
    test_version2.check(case, "cuda", layout)


def test_beyond_two_to_the_31() -> None:
    """Where the strips of a batch of 6.4 G elements begin: by arithmetic, nothing is allocated."""
    shape = (10_000, 3, 448, 480)
    n, c, h, w = shape
    stride = (c * h * w, h * w, w, 1)
    result = (ctypes.c_int64 * 4)()
    numbers = [cuda_emulation.integers(values, 1) for values in (shape, stride)]
    for index in (0, 1, 30, 12_345_678, -1):
        call = cuda_emulation.library().emulated_strip_base
        cuda_emulation.check(call(*numbers, 4, ctypes.c_int64(index), result))
        base_in, base_out, strip, strips = result
        assert (strip, strips) == (16, n * (h // 4) * (w // 16))
        row, column = divmod(index % strips, w // 16)
        image, y = divmod(row, h // 4)
        assert base_in == base_out == image * stride[0] + y * 4 * w + column * 16
    assert base_in > 2**32
