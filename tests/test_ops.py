"""The torch operators: opcheck, compile, export, dynamic shapes, gradients."""

from __future__ import annotations

import copy
import importlib
import mmap
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import blockenc
from blockenc.cipher import MOST_KEPT
from blockenc.plan import Plan
from blockenc.plan.packing import HEADER_BYTES
from blockenc.steps import Ffx, Np, Scramble, Shuffle, Step
from tests import oracle

CIPHER = blockenc.Cipher(oracle.KEY)
X = oracle.image((2, 3, 16, 24))


PACKED = torch.from_numpy(CIPHER.plan().packed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x", [X, X[0], X.contiguous(memory_format=torch.channels_last), X[:, :, ::2, ::2]])
def test_opcheck(x: torch.Tensor, dtype: torch.dtype | None) -> None:
    torch.library.opcheck(torch.ops.blockenc.apply.default, (x, PACKED, dtype))
    out = torch.empty_like(x, dtype=dtype)
    torch.library.opcheck(torch.ops.blockenc.apply_out.default, (x, PACKED, out))


def test_compile_fullgraph_and_dynamic() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return CIPHER.encrypt(x, dtype=torch.float32, mean=[0.5] * 3, std=[0.25] * 3) * 2

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 3, 16, 24), (1, 3, 8, 4), (5, 3, 32, 32)):
        x = oracle.image(shape)
        assert torch.equal(compiled(x), model(x))


def test_compile_inductor() -> None:
    compiled = torch.compile(lambda x: CIPHER.decrypt(CIPHER.encrypt(x)) + 1, fullgraph=True)
    assert torch.equal(compiled(X), X + 1)


def test_compile_before_first_use() -> None:
    """A cipher first used inside a trace keeps working outside it."""
    fresh = blockenc.Cipher(oracle.KEY)
    compiled = torch.compile(lambda x: fresh.encrypt(x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), CIPHER.encrypt(X))
    assert torch.equal(fresh.encrypt(X), CIPHER.encrypt(X))

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return unused.encrypt(x)

    unused = blockenc.Cipher(oracle.KEY)
    program = torch.export.export(Model(), (X,))
    assert torch.equal(program.module()(X), CIPHER.encrypt(X))
    assert torch.equal(unused.encrypt(X), CIPHER.encrypt(X))


def test_export() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return CIPHER.encrypt(x, dtype=torch.float32)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Model(), (X,), dynamic_shapes={"x": {0: batch}})
    assert any(node.target is torch.ops.blockenc.apply.default for node in program.graph.nodes)
    for n in (1, 7):
        x = oracle.image((n, 3, 16, 24))
        assert torch.equal(program.module()(x), Model()(x))


SIZED = {
    "a plan of its own for each size": [Shuffle(), Np(), Scramble(period="image")],
    "several passes": [Scramble(block_size=8, period="image"), Shuffle(block_size=16), Ffx()],
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("steps", SIZED.values(), ids=SIZED)
def test_compile_and_export_where_plans_depend_on_the_size(steps: list[Step], dynamic: bool) -> None:
    """A graph is for one size, and others are traced anew; the number of images may change."""
    torch._dynamo.reset()  # the cases of this test share a code object, of which a few graphs are kept
    cipher, fresh = (blockenc.Cipher(oracle.KEY, block_size=4, steps=steps) for _ in range(2))
    compiled = torch.compile(lambda x: fresh.encrypt(x), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in ((2, 3, 16, 32), (3, 3, 16, 32), (1, 3, 32, 32)):
        x = oracle.image(shape)
        assert torch.equal(compiled(x), cipher.encrypt(x))

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return fresh.decrypt(x, dtype=torch.float32)

    x = oracle.image((2, 3, 16, 32))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Model(), (x,), dynamic_shapes={"x": {0: batch if dynamic else None}})
    many = torch.cat([x, x]) if dynamic else x
    assert torch.equal(program.module()(many), cipher.decrypt(many, dtype=torch.float32))


def test_requires_grad_is_refused() -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^x: requires grad.*detach"):
        CIPHER.encrypt(x)
    with torch.no_grad():
        assert torch.equal(CIPHER.encrypt(x), CIPHER.encrypt(x.detach()))


DERIVATIVES = {
    "autograd": lambda f, x: f(x.clone().requires_grad_()),
    "torch.func.grad": lambda f, x: torch.func.grad(lambda v: f(v).sum())(x),
    "torch.func.vjp": lambda f, x: torch.func.vjp(f, x),
    "torch.func.jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    "torch.func.jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "torch.func.jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "torch.func.hessian": lambda f, x: torch.func.hessian(lambda v: f(v).sum())(x),
    "of a vmap": lambda f, x: torch.func.grad(lambda v: torch.func.vmap(f)(v).sum())(x),
    "forward mode": lambda f, x: forward_mode(f, x),
}


def forward_mode(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(x, torch.ones_like(x)))


FORMS = {
    "Cipher.encrypt": CIPHER.encrypt,
    "Cipher.decrypt": CIPHER.decrypt,
    "unchecked": blockenc.Cipher(oracle.KEY, check_values=False).encrypt,
    "torch.ops": lambda x: torch.ops.blockenc.apply(x, PACKED, x.dtype),
    "out": lambda x: CIPHER.encrypt(x, out=torch.empty(x.shape)),
}


# torch.func.vmap refuses any operator that writes to `out`.
MODES_AND_FORMS = [(m, f) for m in DERIVATIVES for f in FORMS if (m, f) != ("of a vmap", "out")]


@pytest.mark.parametrize("mode, form", MODES_AND_FORMS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_no_mode_differentiates(mode: str, form: str) -> None:
    """Each is the same error, where a missing derivative would be taken for zeros."""
    with pytest.raises(RuntimeError, match=r"^x: requires grad.*no derivative; pass x\.detach\(\)"):
        DERIVATIVES[mode](FORMS[form], X[:, :, :8, :8].float() / 255)


def test_what_needs_no_derivative_of_x() -> None:
    """Gradients by other tensors, vmap, and autograd switched off go on as before."""
    x = X[:, :, :8, :8].float() / 255
    weight = torch.ones(3, 1, 1)
    gradient = torch.func.grad(lambda w: (w * CIPHER.encrypt(x)).sum())(weight)
    assert torch.allclose(gradient, CIPHER.encrypt(x).sum((0, 2, 3))[:, None, None])
    assert torch.equal(torch.func.vmap(CIPHER.encrypt)(x), CIPHER.encrypt(x))
    with torch.no_grad():
        assert torch.equal(CIPHER.encrypt(x.clone().requires_grad_()), CIPHER.encrypt(x))
    with torch.inference_mode():
        assert torch.equal(CIPHER.encrypt(x), CIPHER.encrypt(x))


def damaged(offset: int, *values: int) -> torch.Tensor:
    plan = PACKED.clone()
    plan[offset : offset + len(values)] = torch.tensor(values, dtype=torch.uint8)
    return plan


def with_scale(scale: float) -> torch.Tensor:
    return damaged(SCALE, *struct.pack("<f", scale))


def resized(size: int) -> torch.Tensor:
    """The plan, with memory that somebody took away from under it."""
    plan = PACKED.clone()
    plan.untyped_storage().resize_(size)
    return plan


PLAN_BYTES = PACKED.numel()
# M = 4, C = 3: L = 48. After the header: the scale, 192 bytes of source, 64 of flips, 128 of table_of.
SCALE, SOURCE, FLIPS, TABLE_OF, TABLES = (HEADER_BYTES + n for n in (0, 64, 256, 320, 448))
BAD_PLANS = {
    "too short": (lambda: PACKED[:-64], "expected"),
    "too long": (lambda: torch.cat([PACKED, torch.zeros(64, dtype=torch.uint8)]), "expected"),
    "two dimensions": (lambda: PACKED[None], "expected"),
    "other type": (lambda: PACKED.to(torch.int32), "expected"),
    "as wide a type": (lambda: PACKED.view(torch.int8), "expected"),
    "expanded": (lambda: torch.zeros(1, dtype=torch.uint8).expand(PLAN_BYTES), "expected"),
    "every other byte": (lambda: PACKED.repeat_interleave(2)[::2], "expected"),
    "not aligned": (
        lambda: torch.cat([torch.zeros(1).byte(), PACKED])[1:],
        "expected memory that is aligned",
    ),
    "no memory": (lambda: resized(0), "its storage holds 0"),
    "too little memory": (lambda: resized(64), "its storage holds 64"),
    "source too large": (lambda: damaged(SOURCE, 48, 0, 0, 0), "an index"),
    "source negative": (lambda: damaged(SOURCE + 4 * 47, 255, 255, 255, 255), "an index"),
    "no such table": (lambda: damaged(TABLE_OF + 2 * 47, 2), "an index"),
    "table value too large": (lambda: damaged(TABLES + 2 * 255, 0, 1), "a table value"),
    "scale too large": (lambda: with_scale(255.5), "the scale"),
    "scale huge": (lambda: with_scale(1e30), "the scale"),
    "scale negative": (lambda: with_scale(-1.0), "the scale"),
    "scale not a number": (lambda: with_scale(float("nan")), "the scale"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_bad_plans_are_refused(backend: str, name: str) -> None:
    """Each backend refuses a plan, which may come from anyone, in the same words; no memory is touched."""
    make, message = BAD_PLANS[name]
    for x in (X, X.float() / 255):
        with pytest.raises(ValueError, match=f"^plan: {message}"):
            torch.ops.blockenc.apply(x, make(), x.dtype, backend)


# Where each number of the header is, and values that it does not have in any plan, or not in this one.
BAD_HEADERS = {
    "magic": (0, "<q", (0,)),
    "layout": (8, "<i", (1, 3, -1)),
    "header bytes": (12, "<i", (0, 64, 1 << 30)),
    "size": (16, "<q", (0, -1, PLAN_BYTES - 64, PLAN_BYTES + 64, 1 << 62)),
    "block size": (24, "<i", (0, -4, 2, 8, 1 << 16, 2**31 - 1)),
    "channels": (28, "<i", (0, -3, 1, 2**31 - 1)),
    "flags": (32, "<i", (-1, 64, 2**31 - 1, 4, 32)),
    "tables": (36, "<i", (-1, 0, 2, 1 << 16, 2**31 - 1)),
    "variants": (40, "<i", (-1, 0, 2, 2**31 - 1)),
    "keys": (44, "<i", (-1, 0, 2, 2**31 - 1)),
    "rows": (48, "<i", (-1, 1, 4, 2**31 - 1)),
    "columns": (52, "<i", (-1, 1, 6, 2**31 - 1)),
    "images": (56, "<i", (-1, 1, 2, 2**31 - 1)),
    "zero": (60, "<i", (1,)),
}


@pytest.mark.parametrize("field", BAD_HEADERS)
def test_headers_of_no_plan_are_refused(backend: str, field: str) -> None:
    offset, form, values = BAD_HEADERS[field]
    for value in values:
        plan = damaged(offset, *struct.pack(form, value))
        with pytest.raises(ValueError, match=r"^plan: "):
            torch.ops.blockenc.apply(X, plan, X.dtype, backend)


@pytest.mark.parametrize("name", ["x", "out"])
def test_images_without_memory_are_refused(backend: str, name: str) -> None:
    x, out = X.clone(), X.clone()
    {"x": x, "out": out}[name].untyped_storage().resize_(X.numel() - 1)
    with pytest.raises(ValueError, match=f"^{name}: its storage holds"):
        torch.ops.blockenc.apply_out(x, PACKED, out, backend)


def test_a_plan_written_over_is_checked_again(backend: str) -> None:
    plan = PACKED.clone()
    torch.ops.blockenc.apply(X, plan, X.dtype, backend)
    plan[SOURCE] = 48
    with pytest.raises(ValueError, match=r"^plan: an index"):
        torch.ops.blockenc.apply(X, plan, X.dtype, backend)


def test_each_of_what_is_compared_counts(backend: str) -> None:
    """What a call was found to fit is remembered: another one that differs in one thing is compared anew."""
    apply = torch.ops.blockenc.apply
    for _ in range(2):
        apply(X, PACKED, torch.float32, backend)
        with pytest.raises(ValueError, match=r"^x: expected 3 channels"):
            apply(X[:, :2], PACKED, torch.float32, backend)
        with pytest.raises(ValueError, match=r"^x: height and width"):
            apply(X[..., :-1], PACKED, torch.float32, backend)
        with pytest.raises(TypeError, match=r"^x: expected torch.uint8"):
            apply(X.int(), PACKED, torch.float32, backend)
        with pytest.raises(TypeError, match=r"^dtype: "):
            apply(X, PACKED, torch.int32, backend)
        with pytest.raises(ValueError, match=rf"^plan: expected {PLAN_BYTES} bytes"):
            apply(X, PACKED[:-64], torch.float32, backend)
        assert apply(X[0], PACKED, torch.uint8, backend).dtype == torch.uint8


def test_caches_are_bounded() -> None:
    """A normalisation of its own for each batch, and a scheme for each call: what is kept does not grow."""
    cipher, key = blockenc.Cipher(oracle.KEY), blockenc.Key(oracle.KEY)
    x = X[:1, :, :8, :8]
    for n in range(3 * MOST_KEPT):
        mean = [0.4 + n / 1000] * 3
        got = cipher.encrypt(x, dtype=torch.float32, mean=mean, std=[0.5] * 3)
        want = (cipher.encrypt(x, dtype=torch.float32) - mean[0]) / 0.5
        assert torch.allclose(got, want)
        blockenc.encrypt(x, key, steps=("np",) * (n + 1))
    assert len(cipher._compiled) <= MOST_KEPT
    assert 0 < len(key.kept) <= MOST_KEPT


@pytest.mark.parametrize("name", ["native", "numba", "aten"])
def test_the_default_device_is_not_asked(name: str) -> None:
    """With a GPU as torch's default device, images on the CPU are encrypted there."""
    for cipher in (blockenc.Cipher(oracle.KEY, backend=name), blockenc.Cipher(oracle.KEY, steps=("np",))):
        for x in (X, X.float() / 255):
            want = cipher.encrypt(x, dtype=torch.float32, mean=[0.5] * 3, std=[0.25] * 3)
            torch.set_default_device("meta")  # as good as a GPU: no value can be read from it
            try:
                fresh = blockenc.Cipher(oracle.KEY, cipher.scheme, backend=name)
                got = fresh.encrypt(x, dtype=torch.float32, mean=[0.5] * 3, std=[0.25] * 3)
            finally:
                torch.set_default_device(None)
            assert torch.equal(got, want)


def flags_of_memory(address: int) -> list[str]:
    """The VmFlags (proc(5)) of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise LookupError(f"{address:#x}")


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
@pytest.mark.parametrize("given", [False, True])
def test_large_outputs_may_lie_in_huge_pages(given: bool) -> None:
    x = torch.zeros(64, 3, 512, 512, dtype=torch.uint8)  # 48 MB: malloc asks for memory of its own
    memory = mmap.mmap(-1, x.nbytes)  # a user's own: what malloc gives may have been an output before
    out = torch.frombuffer(memory, dtype=torch.uint8).view_as(x)
    y = CIPHER.encrypt(x, out=out if given else None)
    assert (
        "hg" in flags_of_memory(y.data_ptr() + y.nbytes // 2)
    ) is not given  # a user's memory is left alone


def test_a_cipher_in_a_module_is_copied_without_a_key() -> None:
    assert torch.equal(copy.deepcopy(CIPHER).encrypt(X), CIPHER.encrypt(X))


def test_an_unpacked_plan_is_a_copy() -> None:
    """What was checked cannot be changed any more by whoever else holds the packed plan's memory."""
    plan = CIPHER.plan()
    packed = plan.packed.copy()
    unpacked = Plan.unpack(packed)
    packed[:] = 255
    assert np.array_equal(unpacked.source, plan.source)
    assert np.array_equal(unpacked.tables, plan.tables)


def test_autograd_hears_of_writing_to_out(backend: str) -> None:
    out, weight = torch.zeros(X.shape), torch.ones(X.shape, requires_grad=True)
    loss = (out * weight).sum()
    blockenc.Cipher(oracle.KEY, backend=backend).encrypt(X.float() / 255, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("check_values", [True, False])
def test_views_with_negated_bits(backend: str, check_values: bool) -> None:
    """torch keeps the imaginary part of a conjugate as it is, and notes that it has to be negated."""
    x = X.float() / 255
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    cipher = blockenc.Cipher(oracle.KEY, steps=("shuffle", "np"), backend=backend, check_values=check_values)
    assert torch.equal(cipher.encrypt(view), cipher.encrypt(x))
    out = torch.complex(torch.zeros_like(x), torch.zeros_like(x)).conj().imag
    assert torch.equal(cipher.encrypt(x, out=out), cipher.encrypt(x))


@pytest.mark.parametrize("steps", [("np",), ("shuffle", "np"), ("shuffle", "np", "ffx")])
def test_float64_images_of_bytes_are_bytes(backend: str, steps: tuple[str, ...]) -> None:
    cipher = blockenc.Cipher(oracle.KEY, steps=steps, backend=backend)
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    floats = x.double() / 255
    assert torch.equal(cipher.encrypt(floats), cipher.encrypt(x, dtype=torch.float64))
    assert torch.equal(cipher.decrypt(cipher.encrypt(floats)), floats)


def test_derivatives_within_derivatives() -> None:
    """Transforms of torch.func within each other, of what is not the operator itself."""
    x = X[:1, :, :8, :8].float() / 255
    layer = blockenc.nn.Encrypt(blockenc.Cipher(oracle.KEY, steps=("np",)), form="aten")
    for f, images in ((layer, x), (CIPHER.encrypt, x.double())):

        def inner(v: torch.Tensor, f=f) -> torch.Tensor:
            return torch.func.grad(lambda s: (f(v) * s).sum())(torch.ones((), dtype=v.dtype))

        with pytest.raises(RuntimeError, match="no derivative"):
            torch.func.jvp(inner, (images,), (torch.ones_like(images),))
        assert torch.isfinite(inner(images))


def test_a_dispatch_mode_does_not_switch_the_check_of_values_off() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), pytest.raises(ValueError, match=r"^x: floating images"):
        CIPHER.encrypt(X.float())


def test_modules_of_backends_are_imported_by_any_spelling() -> None:
    """Though blockenc.backends is a function."""
    import blockenc.backends.aten as found

    assert found is importlib.import_module("blockenc.backends.aten")
    assert blockenc.backends()["aten"] == "available"
    assert pickle.loads(pickle.dumps(blockenc.backends)) is blockenc.backends
