"""Builds tests/native_checks/check.cpp and the kernels, without Python: plain, with sanitizers, for ARM, and
AVX-512 simulated; keys.cpp with what derives keys of images; and fuzz.cpp, which feeds the kernels plans of
any bytes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SIMDE = HERE / "simde"  # its immintrin.h stands in for the compiler's
OPTIONS = [
    "-std=c++17",
    "-g1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-pthread",
]


@dataclasses.dataclass(frozen=True)
class Build:
    """One way to build the program, and the parts of it that are worth running so."""

    options: tuple[str, ...]
    parts: tuple[str, ...]
    compiler: str = "g++"
    linking: tuple[str, ...] = ()
    emulator: str | None = None
    fixed_addresses: bool = False
    probe: str = "int main() {}"  # a program that ends well where the build can be made and run
    levels: tuple[str, ...] | None = None  # that it has; None: those of this processor


# -Og with sanitizers: -O1 takes twice as long to compile.
SANITIZER = ("-Og", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS")
BUILDS = {
    "plain": Build(("-O2",), ("alone", "together", "forked", "forked-busy")),
    # Not forked-busy: a fork beside other threads may leave locks of ASan's own allocator closed.
    "asan": Build(
        (*SANITIZER, "-fsanitize=address,undefined,float-cast-overflow"),
        ("alone", "together", "forked"),
        fixed_addresses=True,
    ),
    # No fork: TSan does not support threads in the child of a process with threads. And not `alone`, where
    # the only threads are those of one call: `together` has them too, beside others.
    "tsan": Build((*SANITIZER, "-fsanitize=thread"), ("together",), fixed_addresses=True),
    # No fork: the emulator (qemu 7.2) fails an assertion of its own when the child starts a thread.
    "neon": Build(
        ("-O2",),
        ("alone", "together"),
        compiler="aarch64-linux-gnu-g++",
        linking=("-static",),
        emulator="qemu-aarch64",
        levels=("neon", "portable"),
    ),
    # The kernels of AVX-512 for processors that do not have it: SIMDe says the same in other instructions.
    # -Og compiles in half of the time of -O1, and runs as quickly as is needed.
    "avx512-simde": Build(
        ("-Og", "-mavx2", "-Wno-psabi", f"-I{SIMDE}", "-include", str(SIMDE / "only_avx512.h")),
        ("alone",),
        probe='#include <immintrin.h>\nint main() { return !simulated("avx512"); }',
        levels=("avx512_vbmi", "portable"),
    ),
}

# By compiler, what `python -m tests.native_checks` fuzzes. Either guides the changes by what code they run.
FUZZERS = {
    "g++": dataclasses.replace(
        BUILDS["asan"],
        options=(*BUILDS["asan"].options, "-fsanitize-coverage=trace-pc"),
        parts=(),
        probe='extern "C" __attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc() {}\n'
        "int main() {}",
    ),
    "clang++": dataclasses.replace(
        BUILDS["asan"],
        options=(*BUILDS["asan"].options, "-fsanitize=fuzzer", "-Wno-unknown-warning-option"),
        parts=(),
        compiler="clang++",
    ),
}

# Each program: the code that it checks, and its own files here.
KERNELS = sorted((CSRC / "cpu").rglob("*.cpp"))
PROGRAMS = {
    "check": [*KERNELS, HERE / "check.cpp"],
    "keys": [*sorted((CSRC / "keys").glob("*.cpp")), CSRC / "cpu" / "thread_pool.cpp", HERE / "keys.cpp"],
    "fuzz": [*KERNELS, HERE / "fuzz.cpp", HERE / "fuzz_driver.cpp"],
    "libfuzzer": [*KERNELS, HERE / "fuzz.cpp"],
}


def missing(reason: str) -> None:
    """Skips the test; where CI should have what is missing, fails."""
    if os.environ.get("CI"):
        pytest.fail(f"missing here: {reason}")
    pytest.skip(reason)


def launcher(build: Build) -> list[str]:
    """What the program is started with."""
    if build.emulator:
        return [build.emulator]
    # Sanitizers keep their notes at fixed addresses, where a kernel that draws addresses from a wide range
    # may have put something else. Containers may forbid to choose; most kernels' range is narrow enough.
    fixed = ["setarch", "--addr-no-randomize"]
    if build.fixed_addresses and shutil.which(fixed[0]):
        allowed = subprocess.run([*fixed, "true"], capture_output=True).returncode == 0
        return fixed if allowed else []
    return []


def compile_program(
    build: Build,
    folder: Path,
    program: str = "check",
    *,
    made: Path | None = None,
    changed: Path | None = None,
) -> None:
    """Builds one of PROGRAMS in `folder`. Skips where a tool is missing.

    made: a folder in which another program was built so, whose objects are taken. changed: a file that stands
    in for the kernels' one of that name.
    """
    if build.emulator and platform.machine() == "aarch64":
        pytest.skip("this processor has NEON: the plain build tests it")
    if "-mavx2" in build.options and platform.machine() != "x86_64":
        pytest.skip("this processor has no AVX2, in which AVX-512 is simulated")
    for tool in (build.compiler, build.emulator):
        if tool and not shutil.which(tool):
            missing(tool)
    compiler = [build.compiler, *OPTIONS, *build.options]
    start = launcher(build)
    nothing = folder / "nothing"
    nothing.with_suffix(".cpp").write_text(f"{build.probe}\n")
    try:
        subprocess.run(
            [*compiler, *build.linking, f"{nothing}.cpp", "-o", nothing], check=True, capture_output=True
        )
        subprocess.run([*start, nothing], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        missing(f"what the least program needs for {' '.join(build.options)}: {error.stderr.decode()[-300:]}")

    def compile_object(source: Path) -> Path:
        if made and source in KERNELS and (made / f"{source.stem}.o").exists():
            return made / f"{source.stem}.o"
        target = folder / f"{source.stem}.o"
        beside = [f"-I{CSRC / 'cpu'}"] if source == changed else []
        command = [*compiler, *beside, "-c", source, "-o", target]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name} with {build.options}:\n{done.stderr}"
        return target

    sources = [changed if changed and path.name == changed.name else path for path in PROGRAMS[program]]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_object, sources))
    subprocess.run([*compiler, *build.linking, *objects, "-ldl", "-o", folder / program], check=True)


def run(command: list[str], cases: Path, parts: tuple[str, ...]) -> tuple[int, str]:
    """The exit status, and all that was written."""
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        [*command, str(cases), *parts],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        timeout=300,
    )
    return done.returncode, done.stdout
