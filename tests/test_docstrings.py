"""The examples in docstrings run; each public call has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import blockenc
from blockenc import text

PACKAGE = Path(blockenc.__file__).parent
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Calls whose example is still to be written: one that has it must not be listed.
WITHOUT_EXAMPLE = ("EncryptTransform", "protect", "unprotect")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(
    "module", sorted(name_of(path) for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())
)
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where an example may write
    failed, tried = doctest.testmod(importlib.import_module(module), optionflags=OPTIONS)
    assert tried
    assert not failed  # pytest shows what doctest printed


def public_calls() -> list[str]:
    """All public names but modules and exceptions."""
    found = {name: getattr(blockenc, name) for name in blockenc.__all__}
    return [
        name
        for name, value in found.items()
        if callable(value) and not (inspect.isclass(value) and issubclass(value, Exception))
    ]


@pytest.mark.parametrize("name", public_calls())
def test_public_calls_have_an_example(name: str) -> None:
    """In their docstring, a class also in that of a method."""
    assert bool(examples(getattr(blockenc, name))) is (name not in WITHOUT_EXAMPLE)


def examples(value: object) -> list[doctest.Example]:
    tests = doctest.DocTestFinder(recurse=inspect.isclass(value)).find(value, "value")
    return [example for test in tests for example in test.examples]


def test_an_example_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text.printable, "__doc__", ">>> printable('a')\n'b'\n")
    assert doctest.testmod(text, optionflags=OPTIONS).failed == 1
