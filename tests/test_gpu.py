"""On a GPU: the grid, streams, graphs, devices, torch.compile. `pytest -m gpu`; skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import blockenc
from blockenc.backends import aten, cuda
from tests import oracle, schemes
from tests.plans import FORMS, draw_plan, images_for, integer_types
from tests.test_oracle_grid import MEAN, ORDERS, STD, layouts
from tests.test_version2 import DTYPES, cipher_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(cuda.missing()), reason=f"no CUDA backend here: {cuda.missing()}"),
]
STEPS = ("shuffle", "np", "ffx")


def on_gpu(x: torch.Tensor) -> torch.Tensor:
    """A copy of the same strides."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda").copy_(x)


@pytest.mark.parametrize("channels", (1, 2, 3, 4))
@pytest.mark.parametrize("block_size", (1, 2, 3, 4, 7, 8, 14, 16, 32))
@pytest.mark.parametrize("columns", (5, 16))
def test_bytes(block_size: int, channels: int, columns: int) -> None:
    x = oracle.image((2, channels, 3 * block_size, columns * block_size), seed=block_size)
    for steps in ORDERS:
        want = oracle.expected(x, oracle.secrets(steps, block_size, channels), block_size)
        cipher = blockenc.Cipher(
            oracle.KEY, block_size=block_size, steps=steps, channels=channels, backend="cuda"
        )
        for name, layout in layouts(x).items():
            got = cipher.encrypt(on_gpu(layout))
            assert torch.equal(got.cpu(), want), (steps, name)
            assert torch.equal(cipher.decrypt(got).cpu(), x), (steps, name)


@pytest.mark.parametrize("ffx", ("byte", "decimal"))
@pytest.mark.parametrize("block_size", (2, 4, 7, 16))
def test_values(block_size: int, ffx: str) -> None:
    output = {"mean": MEAN[:3], "std": STD[:3]}
    secrets = oracle.secrets(STEPS, block_size, 3, ffx)
    cipher = blockenc.Cipher(oracle.KEY, block_size=block_size, ffx=ffx, backend="cuda")
    for dtype in (torch.uint8, *oracle.FLOATS):
        x = oracle.image((2, 3, 2 * block_size, 16 * block_size), dtype)
        for result in oracle.FLOATS:
            want = oracle.expected(x, secrets, block_size, ffx=ffx, dtype=result, **output)
            assert torch.equal(cipher.encrypt(x.cuda(), dtype=result, **output).cpu(), want), (dtype, result)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", (None, 16))
def test_general_plans(form: str, columns: int | None) -> None:
    """What no scheme compiles to as well; both layouts, aligned and not."""
    for seed in range(16):
        plan, shape = draw_plan(form, seed, columns=columns)
        packed = torch.from_numpy(plan.packed).cuda()
        integers, whole = integer_types(plan)
        for number, dtype in enumerate((integers, *oracle.FLOATS)):
            x = images_for(plan, shape, dtype)
            for result in (whole if number == 0 else dtype, torch.float32):
                want = aten.transform(x, plan, result)
                for name, layout in layouts(x).items():
                    got = torch.ops.blockenc.apply(on_gpu(layout), packed, result, "cuda")
                    assert torch.equal(got.cpu(), want), (plan, dtype, result, name)


@pytest.mark.parametrize("name", schemes.NOTABLE)
def test_schemes(name: str) -> None:
    one = schemes.NOTABLE[name]
    x = oracle.image(one.shape, DTYPES[one.dtype])
    want = cipher_of(one, "aten").encrypt(x, ids=one.ids)
    got = cipher_of(one, "cuda").encrypt(x.cuda(), ids=one.ids)
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("preset", ("ETC", "LE", "ELE", "PE", "VIT", "VIT_ETC"))
def test_presets(preset: str) -> None:
    """At a size where chunks are many."""
    scheme = getattr(blockenc.schemes, preset)()
    x = oracle.image((8, 3, 224, 224))
    cipher = blockenc.Cipher(oracle.KEY, scheme, backend="cuda")
    got = cipher.encrypt(x.cuda())
    assert torch.equal(got.cpu(), blockenc.Cipher(oracle.KEY, scheme).encrypt(x))
    assert torch.equal(cipher.decrypt(got).cpu(), x)


def case() -> tuple[torch.Tensor, torch.Tensor, blockenc.Cipher]:
    x = oracle.image((64, 3, 224, 224))
    return x.cuda(), oracle.expected(x, oracle.secrets(STEPS, 4, 3), 4), blockenc.Cipher(oracle.KEY)


def test_on_the_current_stream() -> None:
    """The kernel waits for what its stream has to do first, and only for that."""
    x, want, cipher = case()
    late = torch.zeros_like(x)
    cipher.encrypt(late)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        got = cipher.encrypt(late)
    assert not stream.query()  # nothing waited for the GPU
    stream.synchronize()
    assert torch.equal(got.cpu(), want)


def test_in_a_graph() -> None:
    x, want, cipher = case()
    given, out = torch.zeros_like(x), torch.zeros_like(x)
    cipher.encrypt(given, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cipher.encrypt(given, out=out)
    given.copy_(x)
    graph.replay()
    assert torch.equal(out.cpu(), want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_on_every_device() -> None:
    x, want, cipher = case()
    before = torch.cuda.current_device()
    for device in range(torch.cuda.device_count()):
        assert torch.equal(cipher.encrypt(x.to(device)).cpu(), want)
        assert torch.cuda.current_device() == before


def test_compiled() -> None:
    x, want, cipher = case()
    cipher.encrypt(x)  # torch before 2.14 cannot put the plan on the device inside a trace
    assert torch.equal(torch.compile(cipher.encrypt, fullgraph=True)(x).cpu(), want)


def test_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    x, want, cipher = case()
    y = cipher.encrypt(cupy.from_dlpack(x.permute(0, 2, 3, 1).contiguous()))
    assert isinstance(y, cupy.ndarray)
    assert torch.equal(torch.from_dlpack(y).permute(0, 3, 1, 2).cpu(), want)


def test_beyond_two_to_the_31() -> None:
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    x = torch.randint(0, 256, (15_000, 3, 224, 224), dtype=torch.uint8, device="cuda")
    cipher = blockenc.Cipher(oracle.KEY)
    y = cipher.encrypt(x)
    assert torch.equal(y[-8:], cipher.encrypt(x[-8:].clone()))


def test_seals_of_tensors_on_the_device(tmp_path: Path) -> None:
    """They are those of the same values on the CPU."""
    x = torch.randn(50, 70, 30, generator=torch.manual_seed(0))
    state = {"a": x, "b": x.permute(2, 0, 1), "c": x.bfloat16(), "d": torch.tensor(3)}
    at = blockenc.seal(state, oracle.KEY, tmp_path / "s", chunk_bytes=1024)
    there = {name: value.cuda() for name, value in state.items()}
    assert not there["b"].is_contiguous()
    assert blockenc.verify(there, oracle.KEY, at).intact
    there["b"][29, 49, 69] += 1
    (found,) = blockenc.verify(there, oracle.KEY, at, report=True).differences
    assert (found.tensor, found.elements[1]) == ("b", 50 * 70 * 30)
