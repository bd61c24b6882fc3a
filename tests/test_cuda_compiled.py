"""What nvcc makes of the kernels: warnings, spills, registers, 128-bit accesses, the predicted limit."""

from __future__ import annotations

import functools
import re
import shutil

import pytest

from benchmarks.speed import cuda_roofline as roofline

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
# Twelve instances of `tiles` and eight to compare (cuda_tunings.py), four of `blocks`, two of `elements`.
KERNELS = 26
MOST_REGISTERS = 80  # three blocks of 256 threads a multiprocessor


@functools.cache
def compiled(arch: int) -> roofline.Compiled:
    return roofline.compile_kernels(arch)


@functools.cache
def disassembled(arch: int):
    if roofline.find_nvdisasm() is None:
        pytest.skip("nvdisasm is not here: pip install nvidia-cuda-nvdisasm")
    return roofline.disassemble(compiled(arch).cubin)


@pytest.mark.parametrize("arch", (75, 80, 90, 120))
def test_compiles_without_warnings_spills_or_stack(arch: int) -> None:
    report = compiled(arch).report
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    assert len(registers) == KERNELS
    assert max(registers) <= MOST_REGISTERS
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert set(frames) == {("0", "0", "0")}


@pytest.mark.parametrize("arch", (75, 80, 90, 120))
def test_machine_code(arch: int) -> None:
    """Every tile kernel moves images as 128 bits, and nothing goes through local memory."""
    kernels = disassembled(arch)
    assert len(kernels) == KERNELS
    for name, lines in kernels.items():
        opcodes = [roofline.opcode(instruction) for _, instruction in lines]
        assert not [op for op in opcodes if op.startswith(("LDL", "STL"))], name
        if "tiles" in name:
            copies = arch >= 80 and re.search(r"tilesIhhLb0ELi\d+ELb\dELi[12]E", name)
            load = "LDGSTS.E.BYPASS.128" if copies else "LDG.E.128"
            assert sum(op.startswith(load) for op in opcodes) >= 4, name
            stores = {op for op in opcodes if op.startswith("STG")}
            assert stores
            assert all(op.startswith("STG.E.128") for op in stores), (name, stores)
        if "6blocks" in name:
            assert "LDG.E.128" in {op[:9] for op in opcodes}, name
            assert "STG.E.128" in {op[:9] for op in opcodes}, name


@pytest.mark.parametrize("instance", [(256, False, 1), (256, False, 2), (256, True, 1), (192, True, 2)])
def test_copies_leave_the_loops_as_short(instance: tuple[int, bool, int]) -> None:
    """A tenth more instructions a value at most, what staging takes (they once were a third more)."""
    kernels = disassembled(90)
    default = roofline.cost(roofline.bytes_to_bytes(kernels)).instructions
    assert roofline.cost(roofline.bytes_to_bytes(kernels, *instance)).instructions < 1.1 * default


@pytest.mark.parametrize("name", roofline.DEVICES)
def test_predicted_to_be_bound_by_memory(name: str) -> None:
    device = roofline.DEVICES[name]
    kernel = roofline.cost(roofline.bytes_to_bytes(disassembled(device.arch)))
    limits = roofline.predict(device, kernel)
    assert min(limits.values()) >= 0.9 * limits["memory"], (kernel, limits)
