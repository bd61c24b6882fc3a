"""What docs/data.md shows works: its Python blocks run, section by section, after the blocks of "PyTorch"."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blockenc.cli import app as cli

TEXT = (Path(__file__).parents[1] / "docs/data.md").read_text()
SECTIONS = {
    part.split("\n", 1)[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
}
NEEDED = {
    "torchvision": ("torchvision",),
    "Lightning": ("lightning",),
    "timm": ("timm", "torchvision"),
    "albumentations": ("albumentations",),
    "OpenCV": ("cv2",),
    "Hugging Face Trainer": ("datasets", "transformers", "accelerate"),
    "webdataset": ("webdataset",),
    "Whole data sets": ("torchvision",),
}
# No dependency of the tests: the block is run where it is installed.
NOT_IN_CI = ("albumentations",)


@pytest.mark.parametrize("section", [name for name, blocks in SECTIONS.items() if blocks])
def test_blocks(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDED.get(section, ()):
        required = os.environ.get("CI") and package not in NOT_IN_CI
        if importlib.util.find_spec(package) is None and not required:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "docs"}
    blocks = SECTIONS["PyTorch"] + (SECTIONS[section] if section != "PyTorch" else [])
    for block in blocks:
        exec(compile(block, f"docs/data.md, {section}", "exec"), namespace)


def test_every_section_is_known() -> None:
    assert set(NEEDED) < set(SECTIONS)


def test_commands_exist() -> None:
    """Every option that a command line shown here uses is one that the command has."""
    lines = re.findall(r"^    blockenc (\w+) (.*?)(?:  +#.*)?$", TEXT.replace("\\\n", ""), re.MULTILINE)
    assert len(lines) >= 5
    for command, rest in lines:
        offered = CliRunner().invoke(cli.app, [command, "--help"], terminal_width=200).output
        for word in shlex.split(rest):
            assert not word.startswith("--") or word in offered
