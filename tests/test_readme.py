"""What the README shows works: its Python blocks run in order, its two commands exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import blockenc

ROOT = Path(__file__).parents[1]


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the example leaves its key file
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    runnable = [block for block in blocks if not block.startswith(">>>")]
    assert len(runnable) >= 4
    namespace: dict = {}
    for block in runnable:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["batch"].dtype.is_floating_point


def test_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make (\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE)) <= targets


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    "gpu, wish, cuda",
    [
        ("exit 9", None, False),
        ("echo GPU 0: H100", None, True),
        ("exit 9", "1", True),
        ("exit 9", "0", False),
    ],
)
def test_make_demo_compiles_cuda_for_a_gpu_or_a_wish(
    tmp_path: Path, gpu: str, wish: str | None, cuda: bool
) -> None:
    """And sets up an environment apart from that of the tests, without their packages."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{gpu}\n")
    smi.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "BLOCKENC_CUDA"}
    env |= {"PATH": f"{tmp_path}:{env['PATH']}"} | ({"BLOCKENC_CUDA": wish} if wish else {})
    command = ["make", "--dry-run", "--always-make", "demo"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert ("BLOCKENC_CUDA=0" not in done.stdout) is cuda
    assert ("pip index versions torch" not in done.stdout) is cuda  # in search of the CPU build
    assert "[demo]" in done.stdout
    assert "[dev]" not in done.stdout
    assert ".venv/" not in done.stdout


def test_backends_shown_are_the_backends_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"'{name}'" in text for name in blockenc.backends())
