"""What test processes share is made once, and tests that share it run in one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import oracle, shared

ASK = """
import sys, time
from tests import shared
def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    time.sleep(0.2)
    (folder / "result").write_text("whole")
print((shared.once("thing", make) / "result").read_text())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path))


def test_processes_wait_for_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, str(tmp_path / "log")]
    root = Path(__file__).parents[1]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in asking] == ["whole\n"] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_what_failed_is_made_anew() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        shared.once("thing", fail)
    made = shared.once("thing", lambda folder: (folder / "result").touch())
    assert {path.name for path in made.iterdir()} == {"result", ".finished"}


def test_a_process_below_uses_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared.make_folder() is None
    monkeypatch.delenv(shared.VARIABLE)
    made = shared.make_folder()
    assert made is not None
    assert made.is_dir()
    shared.remove_folder(made)
    assert not made.exists()
    monkeypatch.setenv(shared.VARIABLE, "")  # for monkeypatch to take away again


def test_the_oracle_remembers_what_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    @oracle.remembered
    def double(x: torch.Tensor, times: int = 1, *, more: int = 0) -> torch.Tensor:
        asked.append(x.clone())
        return x * 2 * times + more

    x = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    double(x).zero_()  # an answer is the asker's own
    assert torch.equal(double(x), x * 2)
    assert len(asked) == 1
    others = (x.view(3, 2), x.to(torch.int8), x.T, x + 1, torch.zeros(0, 3, dtype=torch.uint8))
    for other in others:
        assert torch.equal(double(other), other * 2)
    assert torch.equal(double(x, 3), x * 6)
    assert torch.equal(double(x, more=1), x * 2 + 1)
    assert len(asked) == 8
    monkeypatch.setattr(oracle, "REMEMBERED", 12)  # two of these answers
    for n in (7, 8, 9, 9):
        double(x, n)
    assert len(asked) == 11
    double(x)
    assert len(asked) == 12


def test_units() -> None:
    """A test's runs on all backends are one unit, and other parameters another."""
    pytest.importorskip("xdist")
    from tests.scheduling import unit

    grid = "tests/test_oracle_grid.py::test_bytes"
    assert unit(f"{grid}[native/avx2-4-3]") == unit(f"{grid}[aten-4-3]")
    assert unit(f"{grid}[numba-4-3]") != unit(f"{grid}[numba-4-1]")
    assert unit("tests/test_a.py::test_b[x-numba]") == unit("tests/test_a.py::test_b[x-aten]")
    assert unit("tests/test_a.py::test_b[numba]") != unit("tests/test_a.py::test_c[numba]")
    assert unit("tests/test_ray.py::test_a") == unit("tests/test_ray.py::test_b")
    native = "tests/test_native_checks.py::"
    assert unit(f"{native}test_every_byte[tsan]") == unit(
        f"{native}test_planted_faults_are_found[tsan-race-data-race]"
    )
    assert unit(f"{native}test_every_byte[tsan]") != unit(f"{native}test_every_byte[asan]")
