"""Plans built by hand: what no scheme compiles to as well, on every backend and under the emulation of CUDA.

The reference is the aten backend's `transform` of the plan itself, which is not packed for it.
"""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch

from blockenc import Cipher, Scheme, schemes
from blockenc.backends import aten, cuda, native
from blockenc.plan import Plan
from blockenc.plan.packing import HEADER_BYTES
from blockenc.steps import Colour, Ffx, Np, Rotate, Scramble, Shuffle
from tests import cuda_emulation, oracle
from tests.plans import FORMS, draw_plan, images_for, integer_types
from tests.test_oracle_grid import check_guards, guarded, layouts

needs_native = pytest.mark.skipif(bool(native.missing()), reason="the native extension is not built")


def check_plan(plan: Plan, shape: tuple[int, ...], backend: str, seed: int) -> None:
    """Every value type, and the layouts in turn: the values, and the bytes around them."""
    packed = torch.from_numpy(plan.packed.copy())
    integer_in, integer_out = integer_types(plan)
    for n, dtype in enumerate((integer_in, *oracle.FLOATS)):
        x = images_for(plan, shape, dtype)
        whole = (integer_out,) if plan.quantises or dtype == integer_in else ()
        for k, result in enumerate((*whole, *oracle.FLOATS)):
            want = aten.transform(x, plan, result)
            name, given = list(layouts(x).items())[(seed + n + k) % 5]
            out, buffer = guarded(list(layouts(x).values())[(seed + n) % 5], result)
            torch.ops.blockenc.apply_out(given, packed, out, backend)
            assert torch.equal(out.contiguous(), want), (plan, dtype, result, name)
            check_guards(out, buffer)


@pytest.fixture
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


@pytest.mark.parametrize("form", FORMS)
def test_every_backend(backend: str, form: str) -> None:
    for seed in range(24):
        plan, shape = draw_plan(form, seed)
        check_plan(plan, shape, backend, seed)


@pytest.mark.parametrize("form", FORMS)
def test_emulated_cuda(emulated: cuda_emulation.Emulated, form: str) -> None:
    for seed in range(12):
        plan, shape = draw_plan(form, seed)
        check_plan(plan, shape, "cuda", seed)
    assert "elements" in emulated.paths


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", (1, 3))
def test_emulated_cuda_by_vectors(emulated: cuda_emulation.Emulated, form: str, grid: int) -> None:
    """Aligned images, in either layout and of every type: more chunks than thread blocks, guard bytes."""
    emulated.grid = grid
    for seed in range(8):
        plan, shape = draw_plan(form, seed)
        packed = torch.from_numpy(plan.packed)
        integers, whole = integer_types(plan)
        for number, dtype in enumerate((integers, *oracle.FLOATS)):
            x = images_for(plan, shape, dtype)
            result = whole if number == 0 and grid == 1 else oracle.FLOATS[(seed + number) % 3]
            want = aten.transform(x, plan, result)
            for layout in (torch.contiguous_format, torch.channels_last):
                given = x.contiguous(memory_format=layout)
                out, buffer = guarded(given, result, offset=32)
                got = torch.ops.blockenc.apply(given, packed, result, "cuda")
                assert torch.equal(got, want), (plan, dtype, result, layout)
                torch.ops.blockenc.apply_out(given, packed, out, "cuda")
                assert torch.equal(out, want), (plan, dtype, result, layout)
                check_guards(out, buffer)
    assert ("tiles" if form == "uniform" else "blocks") in emulated.paths


@pytest.mark.parametrize("block_size", (1, 4))
def test_hostile_uniform_plans_stay_inside(emulated: cuda_emulation.Emulated, block_size: int) -> None:
    """Random numbers behind the header of a plan that goes by vectors: nothing is touched outside."""
    for seed in range(6):
        plan = dataclasses.replace(
            _simple_plan(block_size),
            tables=np.zeros((5, 256), np.uint16),
            quantises=bool(seed % 2),
            nearest=True,
        )
        noise = oracle.image(plan.packed.shape, seed=seed)
        noise[:HEADER_BYTES] = torch.from_numpy(plan.packed)[:HEADER_BYTES]
        x = torch.rand(1, plan.channels, 2 * block_size, 32 * block_size)
        torch.ops.blockenc.apply(x, noise, torch.float32, "cuda")
    assert emulated.paths == ["tiles"] * 6


def test_more_tables_than_a_byte_counts(backend: str) -> None:
    """Table 65535, and the ones around what 8 bits hold."""
    tables = np.arange(65535, dtype=np.uint16)[:, None] % 256 + np.zeros((1, 256), np.uint16)
    numbers = np.array([1, 255, 256, 257, 511, 512, 4096, 32767, 32768, 65534, 65535, 0], np.uint16)
    plan = Plan(
        block_size=2,
        channels=3,
        source=np.arange(12, dtype=np.int32)[None],
        flips=np.zeros((1, 12), np.uint8),
        table_of=numbers[None],
        tables=tables,
    )
    x = oracle.image((2, 3, 4, 64))
    got = torch.ops.blockenc.apply(x, torch.from_numpy(plan.packed), torch.uint8, backend)
    assert torch.equal(got, aten.transform(x, plan, torch.uint8))


def _unlike(plan: Plan, count: int) -> list[torch.Tensor]:
    """Packed plans that differ from each other in one flip."""
    flips = [np.where(np.arange(plan.length) == n, 1, plan.flips).astype(np.uint8) for n in range(count)]
    return [torch.from_numpy(dataclasses.replace(plan, flips=one).packed) for one in flips]


def _simple_plan(block_size: int, keys: int = 1, images: int = 0) -> Plan:
    length = block_size * block_size * 3
    return Plan(
        block_size=block_size,
        channels=3,
        source=np.tile(np.arange(length, dtype=np.int32), (keys, 1)),
        flips=np.zeros((keys, length), np.uint8),
        table_of=np.zeros((keys, length), np.uint16),
        tables=np.zeros((0, 256), np.uint16),
        key_of_image=np.arange(images, dtype=np.int32) % keys if images else None,
    )


@needs_native
def test_kept_plans_are_bounded() -> None:
    """In number and in bytes. Plans with keys of images are not kept."""
    x = oracle.image((2, 3, 8, 8))
    for packed in _unlike(_simple_plan(4), 40):
        torch.ops.blockenc.apply(x, packed, torch.uint8, "native")
        assert native._native.kept_plans()[0] <= 32
    assert native._native.kept_plans()[0] == 32
    before = native._native.kept_plans()
    keys = torch.from_numpy(_simple_plan(4, keys=2, images=2).packed)
    torch.ops.blockenc.apply(x, keys, torch.uint8, "native")
    assert native._native.kept_plans() == before
    side = 512  # 5.5 MB a plan
    large = oracle.image((1, 3, side, side))
    for packed in _unlike(_simple_plan(side), 14):
        torch.ops.blockenc.apply(large, packed, torch.uint8, "native")
        assert native._native.kept_plans()[1] <= 64 << 20
    assert native._native.kept_plans()[1] > 32 << 20


@needs_native
def test_a_plan_that_is_written_over_is_another() -> None:
    """The digest only finds what is kept: with the same digest and other bytes a plan is read anew."""
    plan = _simple_plan(4)
    x, packed = oracle.image((1, 3, 8, 8)), torch.from_numpy(plan.packed.copy())
    assert torch.equal(torch.ops.blockenc.apply(x, packed, torch.uint8, "native"), x)
    other = torch.from_numpy(dataclasses.replace(plan, flips=np.ones_like(plan.flips)).packed)
    packed[HEADER_BYTES:] = other[HEADER_BYTES:]
    assert not torch.equal(packed, other)
    assert torch.equal(torch.ops.blockenc.apply(x, packed, torch.uint8, "native"), 255 - x)
    packed[HEADER_BYTES:] = torch.from_numpy(plan.packed)[HEADER_BYTES:]
    assert torch.equal(torch.ops.blockenc.apply(x, packed, torch.uint8, "native"), x)


POSES = [
    Scramble(period="image"),
    Rotate(period="image"),
    Np(unit="block", period="image"),
    Colour(period="image"),
]
# What has a kernel of its own on the CPU (csrc/cpu/simd/kernels-inl.h), and near misses that have not.
OF_THEIR_OWN = {
    "whole blocks of 8": Scheme(8, POSES),
    "whole blocks of 16": Scheme(16, POSES),
    "whole blocks of 24": Scheme(24, POSES),
    "whole blocks, grey": Scheme(16, [step for step in POSES if step.kind != "colour"], channels=1),
    "blocks of 12": Scheme(12, POSES),
    "masks": Scheme(1, [Np(period="image")]),
    "masks of whole blocks": Scheme(4, [Np(unit="block", period="image")]),
    "masks of halves of bytes": Scheme(4, [Np(cells="nibble", period="image")]),
    "masks and colours": Scheme(1, [Np(period="image"), Colour(unit="pixel", period="image")]),
    "halves of bytes": schemes.LE(),
    "halves of bytes, each block in its own order": schemes.ELE(),
    "the same, interleaved in pieces": schemes.ELE(block_size=8),
    "bytes, each block in its own order": Scheme(4, [Shuffle(period="image"), Scramble(period="image")]),
    "bytes of a wide block, each in its own order": Scheme(12, [Shuffle(period="image")]),
    "moved blocks of 4": Scheme(4, [Scramble(period="image"), Shuffle(), Ffx()]),
    "moved blocks of 6": Scheme(6, [Scramble(period="image"), Shuffle(), Np()]),
    "moved blocks of 16, shuffled": schemes.VIT(),
    "some forms of small blocks": Scheme(4, POSES),
    "keys of images": Scheme(4),
    "keys of images, halves of bytes": schemes.LE(),
    "keys of images, moved and shuffled": schemes.VIT(block_size=8),
    "keys of images, whole blocks": Scheme(8, POSES),
}


@needs_native
@pytest.mark.parametrize("decrypt", [False, True])
@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_kernels_of_their_own(name: str, decrypt: bool) -> None:
    """At each level, in every layout; and outputs so large that they go past the caches."""
    scheme = OF_THEIR_OWN[name]
    for images, height, width in ((5, 48, 96), (41, 144, 192)):
        ids = [n % 4 for n in range(images)] if name.startswith("keys") else None
        cipher = Cipher(oracle.KEY, scheme, per_image=ids is not None)
        x = oracle.image((images, scheme.channels, height, width))
        (plan,), (packed,) = cipher._passes(x, decrypt, None, None, ids)
        want = aten.transform(x, plan, torch.uint8)
        for level, available in native.levels().items():
            for given in layouts(x).values() if available else ():
                out, buffer = guarded(given, torch.uint8)
                torch.ops.blockenc.apply_out(given, packed, out, f"native/{level}")
                assert torch.equal(out.contiguous(), want), level
                check_guards(out, buffer)
