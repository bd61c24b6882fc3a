"""Fuzzes the kernels with packed plans: `python -m tests.native_checks --minutes N`.

With `--compiler clang++` libFuzzer draws the inputs; with g++ tests/native_checks/fuzz_driver.cpp does. An
input that fails is written to the folder of --findings, and the exit status is not 0; then give its path to
run it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests import native_checks
from tests.fuzz.driver import CORPUS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.native_checks", description=__doc__)
    parser.add_argument("inputs", type=Path, nargs="*", help="default: the committed corpus")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--compiler", choices=native_checks.FUZZERS, default="g++")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    build = native_checks.FUZZERS[options.compiler]
    folder = Path("build") / f"fuzz-{options.compiler}"
    folder.mkdir(parents=True, exist_ok=True)
    program = "fuzz" if options.compiler == "g++" else "libfuzzer"
    native_checks.compile_program(build, folder, program)
    command = [*native_checks.launcher(build), str(folder / program)]
    command += [f"-seed={options.seed}", f"-artifact_prefix={options.findings}/plan-"]
    if options.inputs:
        return subprocess.run([*command, "-runs=0", *map(str, options.inputs)]).returncode
    command.append(f"-max_total_time={round(60 * options.minutes)}")
    if program == "libfuzzer":
        kept = options.findings / "plan-corpus"  # libFuzzer writes what it keeps into the first folder
        kept.mkdir(exist_ok=True)
        command += ["-max_len=131072", str(kept)]
    return subprocess.run([*command, str(CORPUS / "plan")]).returncode


if __name__ == "__main__":
    sys.exit(main())
