from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before torch is imported: its threads sleep while they wait for each other, and leave the cores to
# the other test processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

import blockenc
from blockenc.backends import NAMES
from blockenc.backends import native as native_backend
from tests import shared

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tests that train: sums come out alike however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--small",
        action="store_true",
        help="of tests over block sizes or channels, only block sizes 1 to 4 and 1 or 3 channels",
    )


def pytest_configure(config: pytest.Config) -> None:
    if folder := shared.make_folder():
        config.add_cleanup(lambda: shared.remove_folder(folder))


def is_small(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("block_size", 4) <= 4 and parameters.get("channels", 3) in (1, 3)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("small"):
        config.hook.pytest_deselected(items=[item for item in items if not is_small(item)])
        items[:] = [item for item in items if is_small(item)]


@pytest.hookimpl(optionalhook=True)  # there if pytest-xdist is
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from tests.scheduling import Scheduling

    return Scheduling(config, log)


@pytest.fixture(params=cpu_backends())
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend, with an instruction-set level: what `backend=` takes."""
    return str(request.param)
