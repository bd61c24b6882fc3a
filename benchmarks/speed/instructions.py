"""Instructions a byte of the native kernels, where the clock is too noisy.

    python -m benchmarks.speed.instructions

A process without torch replays one call of the extension, for few images and for many; the difference,
divided by the bytes between them, is what a byte costs without the overhead of a call. uint8, one thread.

valgrind  callgrind's count. It knows nothing of AVX-512.
step      the kernel of Linux runs the process one instruction at a time (ptrace), and they are counted: exact
          for every level, slow, and without hardware counters, which virtual machines seldom have.

By default each level is counted by valgrind where that can, else by steps.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.speed.peers import Case
from benchmarks.speed.rows import SCHEMES, SIZES, Row, report_rows
from blockenc.backends import Request, native

FEW, MANY = 1, 3
BLOCKS = 64  # of an image, at least: a kernel works on groups of 16, 32 or 64, and fills up the last one
WARM = 8  # calls before: Python has specialised its byte code, the caches of the extension are filled
REPEATS = {"valgrind": 4, "step": 1}
TOOLS = tuple(REPEATS)
NOT_IN_VALGRIND = ("avx512_vbmi",)
PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_DETACH = 7, 9, 17
MARK = signal.SIGUSR1
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

CHILD = """
import ctypes, importlib.util, os, pickle, signal, sys
extension, call, repeats, traced = sys.argv[1:]
spec = importlib.util.spec_from_file_location("blockenc._native", extension)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
arguments, buffers, warm = pickle.load(open(call, "rb"))
memory = {}
for name, data in buffers.items():
    raw = ctypes.create_string_buffer(len(data) + 64)
    start = -(-ctypes.addressof(raw) // 64) * 64
    ctypes.memmove(start, data, len(data))
    memory[name] = raw, start, len(data)
arguments = [memory[a[1]][1] if isinstance(a, tuple) and a[:1] == ("address",) else a for a in arguments]
run = module.run
for _ in range(warm):
    run(*arguments)
if traced == "1":
    ctypes.CDLL(None).ptrace(0, 0, None, None)
    kill, me, mark = os.kill, os.getpid(), signal.SIGUSR1
    kill(me, mark)
    run(*arguments)
    kill(me, mark)
else:
    for _ in range(int(repeats)):
        run(*arguments)
raw, start, size = memory["out"]
open(call + ".out", "wb").write(ctypes.string_at(start, size))
"""


def missing(tool: str) -> str:
    """Why a tool cannot be used here; "" if it can."""
    if tool == "valgrind":
        return "" if shutil.which("valgrind") else "valgrind is not installed (apt-get install valgrind)"
    return "" if sys.platform == "linux" else "ptrace single steps need Linux"


def tool_for(level: str) -> str:
    return "step" if level in NOT_IN_VALGRIND or missing("valgrind") else "valgrind"


def size_of(row: Row) -> tuple[int, int]:
    """Height and width of the images: under a scheme of version 2, what it is measured with."""
    if row.scheme:
        return SIZES["ImageNet"]
    across = max(64 // row.block_size, 1)
    return -(-BLOCKS // across) * row.block_size, across * row.block_size


def record(row: Row, level: str) -> tuple[list[Any], dict[str, bytes], bytes]:
    """The arguments of the call, addresses named; the memory they point to; the answer."""
    x = torch.randint(0, 256, (row.batch, 3, *size_of(row)), dtype=torch.uint8)
    out = torch.empty_like(x)
    cipher = Case(row, x, out).cipher(f"native/{level}")
    requests: list[Request] = []
    calls: list[tuple[Any, ...]] = []
    apply = native.apply

    def spy(request: Request) -> None:
        requests.append(request)
        one_thread = 1
        calls.append((*native.arguments(request), one_thread, native.level_number(request.level)))
        apply(request)

    with mock.patch.object(native, "apply", spy):
        cipher.encrypt(x, out=out)
    plan = requests[0].plan
    names = {x.data_ptr(): "x", out.data_ptr(): "out", plan.data_ptr(): "plan"}
    buffers = {"x": x.numpy().tobytes(), "out": bytes(out.numel()), "plan": plan.numpy().tobytes()}
    plain = [tuple(a) if isinstance(a, tuple) else a for a in calls[0]]  # torch.Size is no plain tuple
    found = [("address", names[a]) if isinstance(a, int) and a in names else a for a in plain]
    return found, buffers, out.numpy().tobytes()


def count(tool: str, row: Row, level: str) -> tuple[float, int]:
    """Instructions of a call, and the bytes of its images."""
    arguments, buffers, want = record(row, level)
    with tempfile.TemporaryDirectory() as folder:
        call = Path(folder) / "call"
        call.write_bytes(pickle.dumps((arguments, buffers, WARM)))
        child = [sys.executable, "-I", "-S", "-c", CHILD, native._native.__file__, str(call)]
        child += [str(REPEATS[tool]), str(int(tool == "step"))]
        counted = steps(child) if tool == "step" else callgrind(child, folder)
        if Path(f"{call}.out").read_bytes() != want:
            raise RuntimeError(f"{tool}: the replayed call gave other bytes than blockenc")
    return counted / (1 if tool == "step" else REPEATS[tool] + WARM), len(want)


def callgrind(command: list[str], folder: str) -> int:
    """The instructions of a process inside the extension."""
    # Python's own instructions vary from run to run.
    tool = ["valgrind", "--tool=callgrind", "--toggle-collect=blockenc::run_job*"]
    tool += [f"--callgrind-out-file={folder}/callgrind"]
    done = subprocess.run([*tool, *command], capture_output=True, text=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or collected is None:
        raise RuntimeError(f"valgrind failed:\n{done.stderr}")
    return int(collected[1])


def steps(command: list[str]) -> int:
    """Instructions of a process between the two MARKs it sends itself. Signals of others are left out."""
    child = subprocess.Popen(command)

    def signalled() -> int:
        """The signal that stopped the process, once it has stopped."""
        _, status = os.waitpid(child.pid, 0)
        if not os.WIFSTOPPED(status):
            child.returncode = os.waitstatus_to_exitcode(status)
            raise RuntimeError(f"the process to be counted ended: {child.returncode}")
        return os.WSTOPSIG(status)

    def resume(request: int) -> None:
        if LIBC.ptrace(request, child.pid, None, None) < 0:
            raise RuntimeError(f"ptrace was refused: {os.strerror(ctypes.get_errno())}")

    try:
        while signalled() != MARK:
            resume(PTRACE_CONT)
        taken = 0
        resume(PTRACE_SINGLESTEP)
        while (stopped_by := signalled()) != MARK:
            taken += stopped_by == signal.SIGTRAP
            resume(PTRACE_SINGLESTEP)
        resume(PTRACE_DETACH)
        if child.wait():
            raise RuntimeError(f"the process that was counted ended: {child.returncode}")
        return taken
    finally:
        if child.returncode is None:
            child.kill()
            child.wait()


def per_byte(tool: str, level: str, row: Row) -> float:
    """Instructions a byte of an image."""
    few, fewer_bytes = count(tool, dataclasses.replace(row, batch=FEW), level)
    many, more_bytes = count(tool, dataclasses.replace(row, batch=MANY), level)
    return (many - few) / (more_bytes - fewer_bytes)


def main() -> None:
    supported = [level for level, has in native.levels().items() if has] if not native.missing() else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--block-sizes", type=int, nargs="*", default=[2, 4, 8, 16, 32, 14])
    parser.add_argument("--schemes", nargs="*", choices=SCHEMES, default=list(SCHEMES), help="of version 2")
    parser.add_argument("--levels", nargs="*", choices=supported, default=supported)
    parser.add_argument("--tool", choices=TOOLS, help="for every level")
    options = parser.parse_args()
    if native.missing():
        parser.error(f"the native backend is missing: {native.missing()}")
    tools = {level: options.tool or tool_for(level) for level in options.levels}
    for level, tool in tools.items():
        if reason := missing(tool):
            parser.error(f"--tool: {reason}")
        if tool == "valgrind" and level in NOT_IN_VALGRIND:
            parser.error(f"--tool: valgrind cannot run {level}; use --tool step")
    print(
        "Instructions a byte, uint8 to uint8, planar. 64 pixels wide (M = 14: 56), 3 steps; 224 x 224 where a"
    )
    print("row has the name of a scheme.\n")
    print(f"| row | {' | '.join(f'{level} ({tool})' for level, tool in tools.items())} |")
    print("|---" * (len(tools) + 1) + "|")
    rows = [Row("ImageNet", FEW, m) for m in options.block_sizes]
    rows += [row for row in report_rows() if row.scheme in options.schemes]
    for row in rows:
        cells = [f"{per_byte(tool, level, row):.2f}" for level, tool in tools.items()]
        name = f"{row.scheme}, M = {row.block_size}" if row.scheme else f"M = {row.block_size}"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
