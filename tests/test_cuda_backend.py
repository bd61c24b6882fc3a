"""The cuda backend's Python side, with a launcher that only records; runs without a GPU."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import blockenc
from blockenc.backends import Request, cuda
from blockenc.backends.native import TYPES
from blockenc.plan.packing import HEADER_BYTES, read_header


class FakeLauncher:
    def __init__(self, failure: str = "", reason: str = "") -> None:
        self.calls: list[tuple] = []
        self.failure, self.reason = failure, reason

    def missing(self) -> str:
        return self.reason

    def launch(self, *arguments: object) -> None:
        self.calls.append(arguments)
        if self.failure:
            raise RuntimeError(self.failure)


@pytest.fixture
def request_of_image(monkeypatch: pytest.MonkeyPatch) -> Request:
    """A request whose stream is number 1234; on the CPU, which the fake launcher does not mind."""
    stream = types.SimpleNamespace(cuda_stream=1234)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    x = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    plan = blockenc.Cipher(bytes(32)).plan()
    packed = torch.from_numpy(plan.packed.copy())
    return Request(x, torch.empty(2, 3, 8, 8), packed, read_header(plan.packed[:HEADER_BYTES].tobytes()))


def test_arguments_and_stream(monkeypatch: pytest.MonkeyPatch, request_of_image: Request) -> None:
    launcher = FakeLauncher()
    monkeypatch.setattr(cuda, "_cuda", launcher)
    cuda.apply(request_of_image)
    x, out, plan = request_of_image.x, request_of_image.out, request_of_image.plan
    expected = (
        *(x.data_ptr(), out.data_ptr(), TYPES[torch.uint8], TYPES[torch.float32]),
        *((2, 3, 8, 8), (192, 1, 24, 3), (192, 64, 8, 1)),
        *(plan.data_ptr(), plan.numel(), request_of_image.header.packed(), None, 1234),
    )
    assert launcher.calls == [(*expected, None)]  # as it runs by default
    monkeypatch.setattr(cuda, "tuning", (256, 0, 0, True, 0))
    cuda.apply(request_of_image)
    assert launcher.calls[1:] == [(*expected, (256, 0, 0, True, 0))]


def test_launch_errors_name_the_cause(monkeypatch: pytest.MonkeyPatch, request_of_image: Request) -> None:
    monkeypatch.setattr(cuda, "_cuda", FakeLauncher("CUDA: the kernel was not launched: out of memory"))
    with pytest.raises(blockenc.errors.BackendError, match=r"cuda: .* out of memory"):
        cuda.apply(request_of_image)


def test_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_reason", "")
    monkeypatch.setattr(cuda, "_cuda", FakeLauncher(reason="no CUDA device"))
    cuda.missing.cache_clear()
    try:
        assert cuda.missing() == "no CUDA device"
        monkeypatch.setattr(cuda, "_reason", "the CUDA extension is not built")
        cuda.missing.cache_clear()
        assert cuda.missing() == "the CUDA extension is not built"
    finally:
        cuda.missing.cache_clear()


def test_it_serves_cuda_tensors_only() -> None:
    assert cuda.DEVICES == ("cuda",)
    with pytest.raises(blockenc.errors.BackendError, match="cuda backend cannot be used"):
        blockenc.encrypt(torch.zeros(3, 8, 8, dtype=torch.uint8), bytes(32), backend="cuda")


def test_the_benchmark_runs_or_says_why_not() -> None:
    command = [sys.executable, "-m", "benchmarks.speed.cuda", "--tiny", "--rounds", "2"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert ("SKIPPED" if cuda.missing() else "blockenc") in done.stdout
