"""Every benchmark runs, at tiny size; what it measures is judged by people, not by tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_speed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--tiny", "--seconds", "0.01"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "speed.json")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    results = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert len(results) == done.stdout.count("| M = ")
    for row in results:
        assert {"copy_", "aten"} < set(row["median_seconds"])
        assert min(row["median_seconds"].values()) > 0


def run_module(*args: str) -> str:
    command = [sys.executable, "-m", *args]
    root = Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout


def test_data() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("pyarrow")
    tiny = ("--rounds", "1", "--cifar", "64", "--photos", "4", "--workers", "0")
    memory = ("--memory", "2", "--allowed", "1000")
    said = run_module("benchmarks.data", *tiny, *memory)
    assert len(re.findall(r"^\| (CIFAR|photos)", said, re.MULTILINE)) == 3
    assert len(re.findall(r"^\| (npy|npz|tar|parquet) .*\d+ \|$", said, re.MULTILINE)) == 4


def test_kill() -> None:
    said = run_module("benchmarks.kill", "--photos", "8", "--kills", "1")
    assert said.count("identical") == 2
