"""The grid as a pytest-benchmark suite: pytest benchmarks/speed --benchmark-only [-k "CIFAR and avx512_vbmi"]

Here contenders are measured one after another, not in turn; for ratios use `python -m benchmarks.speed`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.speed import measure
from benchmarks.speed.peers import PEERS
from benchmarks.speed.rows import Row, grid


@pytest.mark.parametrize("row", grid(), ids=lambda row: row.name)
@pytest.mark.parametrize("name", [*measure.contenders(), *PEERS])
def test_speed(row: Row, name: str, benchmark: Any, request: pytest.FixtureRequest) -> None:
    if name in PEERS and (reason := PEERS[name].missing(row)):
        pytest.skip(f"{name}: {reason}")
    case = measure.make_case(row, request.config.getoption("--tiny"))
    case = measure.part(case) if measure.is_slow(name) else case
    torch._dynamo.reset()
    call = measure.make_call(name, case)
    benchmark.group = row.name
    benchmark.extra_info |= {"images": len(case.x), "threads": torch.get_num_threads()}
    benchmark(call)
    if benchmark.stats:
        benchmark.extra_info["GB/s"] = case.x.nbytes / benchmark.stats.stats.median / 1e9
