from __future__ import annotations

import os

import pytest
import torch

import blockenc
from blockenc.backends import NAMES
from blockenc.backends import native as native_backend

torch.set_num_threads(2)  # the threaded paths run on any machine

# What a CI machine must have; one that is missing there is a failure, not a skip.
REQUIRED = ("native", "numba", "aten")


def cpu_backends() -> list[str]:
    """Every backend of this install that works on CPU tensors, with each instruction-set level of native."""
    state = blockenc.backends()
    for name in REQUIRED:
        if os.environ.get("CI") and state[name] != "available":
            raise RuntimeError(f"the {name} backend is missing here: {state[name]}")
    names = [name for name in NAMES if state[name] == "available" and name not in ("native", "cuda")]
    if state["native"] == "available":
        names = [f"native/{level}" for level, has in native_backend.levels().items() if has] + names
    return names


@pytest.fixture(params=cpu_backends())
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend, with an instruction-set level: what `backend=` takes."""
    return str(request.param)
