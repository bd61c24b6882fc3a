"""The torch operators: opcheck, compile, export, dynamic shapes, gradients."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

import blockenc
from tests import oracle

CIPHER = blockenc.Cipher(oracle.KEY)
X = oracle.image((2, 3, 16, 24))


def operands(x: torch.Tensor, cipher: blockenc.Cipher = CIPHER) -> tuple:
    return (x, *cipher._compile(False, None, None, x.device))


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x", [X, X[0], X.contiguous(memory_format=torch.channels_last), X[:, :, ::2, ::2]])
def test_opcheck(x: torch.Tensor, dtype: torch.dtype | None) -> None:
    torch.library.opcheck(torch.ops.blockenc.apply.default, (*operands(x), dtype))
    out = torch.empty_like(x, dtype=dtype)
    torch.library.opcheck(torch.ops.blockenc.apply_out.default, (*operands(x), out))


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


def test_requires_grad_is_refused() -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^x: requires grad.*detach"):
        CIPHER.encrypt(x)
    with torch.no_grad():
        assert torch.equal(CIPHER.encrypt(x), CIPHER.encrypt(x.detach()))


def test_bad_plans_are_refused(backend: str) -> None:
    x, plan, *rest = operands(X)
    with pytest.raises(ValueError, match="plan: expected"):
        torch.ops.blockenc.apply(x, plan[:-64], *rest, None, backend)
    if backend == "native":
        damaged = plan.clone()
        damaged[64:68] = 255  # the first source index
        with pytest.raises(ValueError, match="plan: an index"):
            torch.ops.blockenc.apply(x, damaged, *rest, None, backend)


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
    out = torch.empty_like(x)
    y = CIPHER.encrypt(x, out=out if given else None)
    assert (
        "hg" in flags_of_memory(y.data_ptr() + y.nbytes // 2)
    ) is not given  # a user's memory is left alone


def test_a_cipher_in_a_module_is_copied_without_a_key() -> None:
    assert torch.equal(copy.deepcopy(CIPHER).encrypt(X), CIPHER.encrypt(X))
