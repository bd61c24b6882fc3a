"""Every benchmark runs, at tiny size; what it measures is judged by people, not by tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


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
