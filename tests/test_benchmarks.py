"""Every benchmark runs, at tiny size; what it measures is judged by people, not by tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import blockenc
from benchmarks.speed import cuda_roofline, instructions, measure, report
from benchmarks.speed.peers import PEERS, Peer, copy_
from benchmarks.speed.rows import BUDGETS, Row, grid, report_rows
from blockenc.backends import native


def run_module(*args: str) -> str:
    command = [sys.executable, "-m", *args]
    root = Path(__file__).parents[1]
    # Within a worker of pytest-xdist, pytest-benchmark measures nothing; this process is its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=root, env=environment
    ).stdout


QUICK = [name for name in PEERS if not name.startswith("compiled")]


@pytest.mark.parametrize("row", [row for row in grid() if row.size == "CIFAR"], ids=lambda row: row.name)
def test_peers_give_what_blockenc_gives(row: Row) -> None:
    case = measure.make_case(row, tiny=True)
    want = case.encrypt(case.cipher())().clone()
    for name in QUICK:
        if PEERS[name].exact and not PEERS[name].missing(row):
            got = PEERS[name].make(case)()
            assert got.dtype == want.dtype, name
            assert torch.equal(got, want), name


@pytest.mark.parametrize("row", [Row("CIFAR", 1), Row("CIFAR", 1, target="float32", layout="channels_last")])
@pytest.mark.parametrize("name", ["compiled chain", "compiled gather"])
def test_compiled_peers_give_what_blockenc_gives(row: Row, name: str) -> None:
    torch._dynamo.reset()
    measure.make_call(name, measure.make_case(row))  # compares


def test_a_peer_that_gives_something_else_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "wrong", Peer(copy_, "a copy, called an encryption"))
    with pytest.raises(RuntimeError, match="wrong gives other values"):
        measure.make_call("wrong", measure.make_case(Row("CIFAR", 1)))


def test_speed(tmp_path: Path) -> None:
    """The report at tiny size writes its three files, which agree, and writes them again from the JSON."""
    names = [*measure.contenders(), *QUICK]
    said = run_module(
        "benchmarks.speed", "--tiny", "--seconds", "0.01", "--out", str(tmp_path / "out"), "--only", *names
    )
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert (tmp_path / "out/table.md").read_text() == said
    assert [record["name"] for record in results["rows"]] == [row.name for row in report_rows()]
    assert [(b["what"], b["budget"]) for b in results["budgets"]] == [(b.what, b.text) for b in BUDGETS]
    for record in results["rows"]:
        assert set(record["calls"]) | set(record["missing"]) == set(names)
        assert min(call["seconds"] for call in record["calls"].values()) > 0
        line = next(line for line in said.splitlines() if line.startswith(f"| {record['name']} | 1x3x"))
        shown = [cell.strip() for cell in line.split("|")[4:-1]]
        for name, cell in zip(columns(said), shown, strict=True):
            milliseconds = f"{1e3 * record['calls'][name]['seconds']:.3g} ms" if cell != "–" else ""
            assert milliseconds in cell
            assert (cell == "–") == (name in record["missing"])
    for budget in results["budgets"]:
        value = "not measured here" if budget["measured"] is None else f"{budget['measured']:.3g}"
        assert f"| {budget['what']} | {budget['row']} | {budget['budget']} | {value} |" in said
    assert {point["threads"] for point in results["scaling"]} >= {1}
    assert said.count("\n| 1 | ") + said.count("\n| 2 | ") == len(results["scaling"])
    again = ["--from", str(tmp_path / "out/results.json"), "--out", str(tmp_path / "again")]
    assert run_module("benchmarks.speed", *again) == said
    for folder in ("out", "again"):
        with Image.open(tmp_path / folder / "roofline.png") as image:
            assert image.width > 1000


def columns(said: str) -> list[str]:
    header = next(line for line in said.splitlines() if line.startswith("| row | batch |"))
    return [cell.strip() for cell in header.split("|")[4:-1]]


def test_budgets_are_judged_by_bytes() -> None:
    """A slow peer was given half the images in half the time: it is as fast a byte."""
    row = report_rows()[0]
    calls = {
        "copy_": {"seconds": 1.0, "images": 1024},
        "native/avx512_vbmi": {"seconds": 2.0, "images": 1024},
        "native/avx2": {"seconds": 1.0, "images": 512},
    }
    results = {"rows": [{"name": row.name, "values": 3, "calls": calls}], "import_seconds": 0.06}
    judged = {budget["what"]: (budget["measured"], budget["met"]) for budget in report.judge(results)}
    assert judged["AVX-512 against copy_, M = 2"] == (0.5, False)
    assert judged["AVX2 against copy_, M = 2"] == (0.5, False)
    assert judged["import blockenc beyond import torch"] == (pytest.approx(60), False)


def test_speed_suite() -> None:
    """The pytest-benchmark suite, of which a plain run of pytest knows nothing."""
    options = ["--benchmark-only", "--tiny", "--benchmark-min-rounds=1", "--benchmark-max-time=0.001"]
    chosen = "CIFAR and 16 and planar or (CIFAR and 128 and decimal and not channels_last)"
    said = run_module("pytest", "benchmarks/speed", "-q", *options, "-k", f"({chosen}) and not compiled")
    assert re.search(r"^\d+ passed", said.splitlines()[-1])


@pytest.mark.parametrize("tool", instructions.TOOLS)
@pytest.mark.parametrize("level", [level for level, has in native.levels().items() if has])
def test_instructions(tool: str, level: str) -> None:
    """A byte costs some instructions, and valgrind and single steps count the same ones."""
    if reason := instructions.missing(tool):
        pytest.skip(reason)
    if tool == "valgrind" and level in instructions.NOT_IN_VALGRIND:
        pytest.skip(f"valgrind cannot run {level}")
    counted = instructions.per_byte(tool, level, Row("CIFAR", 1))
    assert 0.05 < counted < 100
    if tool == "valgrind":
        assert counted == pytest.approx(instructions.per_byte("step", level, Row("CIFAR", 1)), rel=0.03)


def test_instructions_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["instructions", "--tool", "valgrind"])
    with pytest.raises(SystemExit):
        instructions.main()
    assert "valgrind is not installed" in capsys.readouterr().err


def test_predicted_traffic_of_cuda() -> None:
    """Whole sectors of moved blocks, and what the plan says of values whose variant changes."""
    cipher = blockenc.Cipher(bytes(32), blockenc.schemes.ETC(block_size=16))
    assert cuda_roofline.cache_bytes(cipher.plans(224, 224)[0]) == 2 + 5
    cipher = blockenc.Cipher(bytes(32), blockenc.schemes.ELE(block_size=4))
    assert cuda_roofline.cache_bytes(cipher.plans(224, 224)[0]) == 8 + 10
    cipher = blockenc.Cipher(bytes(32), blockenc.schemes.LE(block_size=4))
    assert cuda_roofline.cache_bytes(cipher.plans(224, 224)[0]) == 1


def test_data() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("pyarrow")
    tiny = ("--rounds", "1", "--cifar", "64", "--photos", "4", "--workers", "0")
    memory = ("--memory", "2", "--allowed", "1000", "--files", "20")
    said = run_module("benchmarks.data", *tiny, *memory)
    assert len(re.findall(r"^\| (CIFAR|photos)", said, re.MULTILINE)) == 3
    assert len(re.findall(r"^\| (npy|npz|tar|parquet|files) .*\d+ \|$", said, re.MULTILINE)) == 6


def test_kill() -> None:
    said = run_module("benchmarks.data.kill", "--photos", "8", "--kills", "1")
    assert said.count("identical") == 2


def test_speed_against_itself(tmp_path: Path) -> None:
    """Two processes take turns; a row that does not exist and a folder without the code are refused."""
    options = ["--rows", "CIFAR", "--rounds", "2", "--json", str(tmp_path / "medians.json")]
    said = run_module("benchmarks.speed.against", ".", *options)
    medians = json.loads((tmp_path / "medians.json").read_text())
    assert list(medians) == ["CIFAR 128, M = 4, allocating"]
    assert all(seconds > 0 for seconds in medians["CIFAR 128, M = 4, allocating"].values())
    assert "CIFAR 128" in said
    for arguments, message in (
        ((".", "--rows", "none"), "rows: none that both have"),
        ((str(tmp_path),), "checkout: expected a folder"),
    ):
        with pytest.raises(subprocess.CalledProcessError) as error:
            run_module("benchmarks.speed.against", *arguments)
        assert message in error.value.stderr


def test_speed_of_deriving() -> None:
    said = run_module("benchmarks.speed.derive", "--tiny", "--rounds", "1", "--threads", "1", "2")
    assert len(re.findall(r"^\| shuffle.* \| [\d,]+/s \|$", said, re.MULTILINE)) == 6
