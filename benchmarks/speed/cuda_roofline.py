"""What limits the CUDA kernels, predicted: python -m benchmarks.speed.cuda_roofline

First, for schemes of version 2, what the kernel `blocks` reads from the second-level cache. Then the limits
of the kernel `tiles`, from its machine code, which needs nvcc and nvdisasm, no GPU: for uint8 to uint8 it
counts the instructions and the shared-memory accesses of its two loops, per pixel value, and sets them
against a device's published figures. Nothing here is measured. Assumed: 4 instructions a cycle and 32 lanes
of shared memory a cycle a multiprocessor; no bank conflicts (docs/cuda.md says where that holds); latency
hidden.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import blockenc
from benchmarks.speed.rows import SCHEMES, VERSION_2
from blockenc.plan import Plan

ROOT = Path(__file__).parents[2]
WARP = 32


class Device(NamedTuple):
    """Published figures: architecture, multiprocessors, boost clock in GHz, memory in GB/s; the source."""

    arch: int
    processors: int
    clock: float
    bandwidth: float
    source: str


DEVICES = {
    "A100 80GB SXM": Device(80, 108, 1.41, 2039, "NVIDIA A100 datasheet"),
    "H100 SXM": Device(
        90, 132, 1.83, 3350, "NVIDIA H100 datasheet; clock implied by its dense bfloat16 figure"
    ),
    "RTX 4090": Device(89, 128, 2.52, 1008, "NVIDIA Ada architecture whitepaper"),
}


def find_nvdisasm() -> str | None:
    """On the PATH, or in the packages nvidia-cuda-nvdisasm or triton."""
    folders = [Path(p) for p in sys.path if p]
    places = [f / sub for f in folders for sub in ("nvidia/cu13/bin", "triton/backends/nvidia/bin")]
    return shutil.which("nvdisasm", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, places)]))


class Compiled(NamedTuple):
    report: str  # of ptxas -v
    cubin: bytes


def compile_kernels(arch: int) -> Compiled:
    """csrc/cuda/launch.cu for one architecture, with every warning an error."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.cubin"
        options = (
            f"-std=c++17 -O3 --fmad=false -arch=sm_{arch} -Werror all-warnings -Xptxas -v,-Werror -cubin"
        )
        command = ["nvcc", *options.split(), str(ROOT / "csrc/cuda/launch.cu"), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return Compiled(done.stderr, target.read_bytes())


def disassemble(cubin: bytes) -> dict[str, list[tuple[int, str]]]:
    """(address, instruction) of each kernel, by its mangled name."""
    tool = find_nvdisasm()
    if tool is None:
        raise RuntimeError("nvdisasm was not found: pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    kernels: dict[str, list[tuple[int, str]]] = {}
    labels: dict[str, int] = {}
    lines: list[tuple[int, str]] = []
    pending: list[str] = []
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.([^,]+)", line):
            lines = kernels.setdefault(section[1], [])
        elif label := re.match(r"(\.L_\w+):", line):
            pending.append(label[1])
        elif code := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            labels.update(dict.fromkeys(pending, int(code[1], 16)))
            pending.clear()
            lines.append((int(code[1], 16), code[2]))
    place = r"`\((\.L_\w+)\)"
    return {
        name: [(a, re.sub(place, lambda m: hex(labels.get(m[1], 1 << 40)), i)) for a, i in lines]
        for name, lines in kernels.items()
    }


def opcode(instruction: str) -> str:
    return re.sub(r"^@!?\w+\s+", "", instruction).split()[0]


def innermost(lines: list[tuple[int, str]], *wanted: str) -> list[str]:
    """The opcodes of the smallest loop (from the target of a backward branch to it) with all these."""
    loops = []
    for address, instruction in lines:
        target = re.search(r"\bBRA\b.*0x([0-9a-f]+)", instruction)
        if target and int(target[1], 16) < address:
            body = [opcode(i) for a, i in lines if int(target[1], 16) <= a <= address]
            if all(any(op.startswith(w) for op in body) for w in wanted):
                loops.append(body)
    return min(loops, key=len)


class Cost(NamedTuple):
    """Of one pixel value, uint8 to uint8."""

    instructions: float
    shared: float


def cost(lines: list[tuple[int, str]]) -> Cost:
    instructions = shared = 0.0
    copies = any(opcode(i).startswith("LDGSTS") for _, i in lines)  # asynchronous, staged by one more loop
    loads = [("LDGSTS.E",), ("LDS.128", "STS")] if copies else [("LDG.E.128",)]
    for wanted in (*loads, ("STG.E.128",)):
        body = innermost(lines, *wanted)
        pixels = 16 * sum(op.startswith(wanted[0]) for op in body)
        instructions += len(body) / pixels
        shared += sum(op.startswith(("LDS", "STS")) for op in body) / pixels
    return Cost(instructions, shared)


def bytes_to_bytes(
    kernels: dict[str, list[tuple[int, str]]], threads: int = 256, padded: bool = False, ahead: int = 0
) -> list[tuple[int, str]]:
    """The kernel tiles<uint8_t, uint8_t, false, threads, padded, ahead>; untuned, the one that runs."""
    wanted = f"tilesIhhLb0ELi{threads}ELb{padded:d}ELi{ahead}E"
    return next(lines for name, lines in kernels.items() if wanted in name)


def predict(device: Device, kernel: Cost) -> dict[str, float]:
    """Pixel values a cycle a multiprocessor that each limit allows."""
    bytes_per_cycle = device.bandwidth / device.processors / device.clock
    return {
        "memory": bytes_per_cycle / 2,
        "instructions": 4 * WARP / kernel.instructions,
        "shared memory": WARP / kernel.shared,
    }


SECTOR = 32  # bytes that the second-level cache gives at least


def cache_bytes(plan: Plan) -> float:
    """Bytes from the second-level cache for a value of planar bytes, under a plan without substitution.

    Of a block that moves, a pixel row comes in whole sectors; of one that stays, what its neighbours have not
    loaded already. What the plan says of a value (source and flips, for each half of one with nibbles) is
    loaded anew where the variant changes from block to block, and then not found in the first-level cache.
    """
    grid = plan.moves is not None
    moves = grid and bool((plan.moves != np.arange(plan.moves.shape[1])).any())
    image = max(1, SECTOR / plan.block_size) if moves else 1
    differs = len(plan.source) > 1 and grid
    return image + differs * (5 * plan.source.shape[1] / plan.length)


def print_traffic() -> None:
    print("Predicted bytes from the second-level cache for a value, planar uint8, 224 x 224.\n")
    print("| row | bytes |")
    print("|---|---|")
    for row, *_ in VERSION_2:
        if row.scheme and row.block_size > 1:
            cipher = blockenc.Cipher(bytes(32), SCHEMES[row.scheme](row.block_size))
            print(f"| {row.name} | {cache_bytes(cipher.plans(224, 224)[0]):.1f} |")
    print()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    print_traffic()
    print("Predicted, uint8 to uint8, by counting machine code.\n")
    print(
        "| device | sm | instructions/value | shared accesses/value | limit | of memory bandwidth | figures |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, device in DEVICES.items():
        kernel = cost(bytes_to_bytes(disassemble(compile_kernels(device.arch).cubin)))
        limits = predict(device, kernel)
        binding = min(limits, key=limits.__getitem__)
        fraction = limits[binding] / limits["memory"]
        print(
            f"| {name} | {device.arch} | {kernel.instructions:.1f} | {kernel.shared:.2f} | {binding} "
            f"| {fraction:.2f} | {device.source} |"
        )


if __name__ == "__main__":
    main()
