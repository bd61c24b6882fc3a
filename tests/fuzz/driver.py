"""Runs a target on its corpus, and on changed bytes for a time; bounds what one input may cost.

Inputs that execute a line of blockenc that none did before are kept in memory, to be changed further. Lines
are watched for a part of the inputs only.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import functools
import random
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import blockenc
from benchmarks.memory import peak
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import one

CORPUS = Path(__file__).parent / "corpus"
PACKAGE = str(Path(blockenc.__file__).parent)
TELLS_PEAK = Path("/proc/self/clear_refs").exists()  # Linux
MOST_SECONDS = 5.0  # of processor time, for one input
MOST_BYTES = 512 << 20  # of memory, for one input
HANGS = 120  # seconds after which the process is ended, with the stack shown
WATCHED = 0.2  # of the inputs; watching lines costs several times what a target does


class FindingError(AssertionError):
    """A target failed. data: the bytes it failed on."""

    def __init__(self, name: str, data: bytes, why: str) -> None:
        super().__init__(f"{name}: {why}; {len(data)} bytes: {data[:300]!r}")
        self.data = data


@dataclasses.dataclass
class Count:
    """What was run: inputs, those that were accepted, and those kept since they ran new lines."""

    inputs: int = 0
    accepted: int = 0
    kept: int = 0


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def attempt(name: str, data: bytes) -> bool:
    """Whether the target took the bytes. Raises FindingError."""
    call, before = functools.partial(one, name, data), time.process_time()
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        accepted, grown = peak(call) if TELLS_PEAK else (call(), 0)
    except (Exception, MemoryError) as error:
        raise FindingError(name, data, f"{type(error).__name__}: {error}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    if (seconds := time.process_time() - before) > MOST_SECONDS:
        raise FindingError(name, data, f"took {seconds:.1f} s")
    if grown > MOST_BYTES:
        raise FindingError(name, data, f"took {grown >> 20} MiB")
    return accepted


class Lines:
    """The lines of blockenc that were executed while it is entered."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def replay(name: str) -> Count:
    """The corpus alone."""
    count = Count()
    for data in corpus(name):
        count.inputs += 1
        count.accepted += attempt(name, data)
    return count


def fuzz(
    name: str, seconds: float, seed: int, *, inputs: int | None = None, latest: Path | None = None
) -> Count:
    """Changed bytes for some seconds of processor time, or so many inputs if these come first.

    latest: where each input is written before it is run, so that it is known after a crash.
    """
    count, draw, known, held = Count(), random.Random(seed), Lines(), corpus(name)
    end = time.process_time() + seconds
    while time.process_time() < end and (inputs is None or count.inputs < inputs):
        data = mutate(draw.choice(held), held, draw)
        if latest:
            latest.write_bytes(data)
        count.inputs += 1
        if draw.random() < WATCHED:
            lines = len(known.seen)
            with known:
                count.accepted += attempt(name, data)
            if len(known.seen) > lines and len(data) < 1 << 14:
                held.append(data)
                count.kept += 1
        else:
            count.accepted += attempt(name, data)
    return count
