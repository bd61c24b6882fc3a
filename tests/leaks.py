"""Looks for the bytes of secrets in all that a call leaves behind: what it returns, raises, logs, prints and
writes, also to files that it removes again."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import logging
import os
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

PART = 8  # bytes of a secret that are one leak
STEP = 4  # so that whatever shows PART + STEP - 1 bytes in a row shows a part


def forms(part: bytes) -> Iterator[bytes]:
    """Regular expressions for the ways in which bytes may be written, but for base64."""
    yield re.escape(part)
    yield re.escape(part.hex().encode())
    yield re.escape(part.hex().upper().encode())
    yield re.escape(repr(part)[2:-1].encode())
    yield rb"(?<!\d)" + rb"[^\d]{1,4}".join(str(byte).encode() for byte in part) + rb"(?!\d)"


def in_base64(secret: bytes) -> Iterator[bytes]:
    """What base64 of something shows that holds the secret at any place."""
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # Without the characters that other bytes decide, too.
            text = encode(bytes(before) + secret)[(4 * before + 2) // 3 :][: (8 * len(secret) - 6) // 6]
            size = 4 * PART // 3
            yield from (re.escape(text[k : k + size]) for k in range(0, len(text) - size + 1, STEP))


class Detector:
    """Finds parts of secrets, each under its name."""

    def __init__(self, **secrets: bytes) -> None:
        self.patterns = {
            name: re.compile(
                b"|".join(
                    sorted(
                        {
                            *in_base64(secret),
                            *(
                                form
                                for k in range(0, len(secret) - PART + 1, STEP)
                                for form in forms(secret[k : k + PART])
                            ),
                        }
                    )
                )
            )
            for name, secret in secrets.items()
        }

    def __call__(self, data: bytes | str) -> list[str]:
        """The names of the secrets that show."""
        raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return [name for name, pattern in self.patterns.items() if pattern.search(raw)]


class Watch:
    """Runs calls, and collects in `found` what shows a secret, and where.

    folder: whatever lies in it after a call, or is removed from it during one, is read.
    """

    def __init__(self, detector: Detector, folder: Path) -> None:
        self.detector, self.folder = detector, folder
        self.found: set[str] = set()
        self.removed: set[str] = set()
        self._read: dict[Path, tuple[int, int]] = {}  # what was looked through, by its time and size

    def look(self, place: str, data: bytes | str) -> None:
        self.found.update(f"{name} in {place}" for name in self.detector(data))

    def run(self, call: Callable[[], Any]) -> BaseException | None:
        """What the call raised, if it did. It is looked through, and so is what the call returned."""
        raised = None
        with logged() as log, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
                _listen()
                WATCHING.append(self)
                try:
                    self.look_through(call())
                except Exception as error:
                    raised = error
                finally:
                    WATCHING.remove(self)
        if raised is not None:
            self.look_at_error(raised)
        self.look("a log", log.getvalue())
        self.look("what is printed", out.getvalue())
        for warning in warned:
            self.look("a warning", f"{warning.message}{warning.message!r}")
        self.look_at_files()
        return raised

    def look_through(self, value: Any) -> None:
        """Texts and pickles of a value, and what a module and a graph hold."""
        for text in (repr, str, lambda value: f"{[value]}"):
            self.look("a repr", text(value))
        self._look_at_pickles("a pickle", value)
        if isinstance(value, torch.export.ExportedProgram):
            buffer = io.BytesIO()
            torch.export.save(value, buffer)
            self.look("an exported graph", buffer.getvalue())
            self.look("an exported graph", value.graph_module.code)
        elif isinstance(value, torch.fx.GraphModule):
            self.look("a graph", value.code)
        if isinstance(value, torch.nn.Module):
            buffer = io.BytesIO()
            torch.save(value.state_dict(), buffer)
            self.look("a state_dict", buffer.getvalue() + repr(value.state_dict()).encode())
        if isinstance(value, (tuple, list)):
            for item in value:
                self.look_through(item)

    def look_at_error(self, error: BaseException) -> None:
        """Messages and local variables of an error, and of those that it follows from."""
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.look("an exception", "".join(shown.format()))
        self._look_at_pickles("the pickle of an exception", error)
        seen: BaseException | None = error
        while seen is not None:  # chained ones, also where `from None` hides them
            self.look("an exception", f"{seen!r}{seen}{getattr(seen, '__notes__', '')}")
            seen = seen.__cause__ or seen.__context__

    def look_at_files(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            self.look("the name of a file", os.fsencode(path.name))
            state = path.lstat()
            stamp = state.st_mtime_ns, state.st_size
            if path.is_file() and not path.is_symlink() and self._read.get(path) != stamp:
                self._read[path] = stamp
                self.look("a file", path.read_bytes())

    def _look_at_pickles(self, place: str, value: Any) -> None:
        for protocol in (0, pickle.HIGHEST_PROTOCOL):
            try:
                self.look(place, pickle.dumps(value, protocol))
            except Exception as error:  # of whatever kind: not all that calls return is pickled
                self.look("an exception", f"{error!r}")

    def look_at_removed(self, path: Path) -> None:
        """Reads a file that is about to be removed."""
        with contextlib.suppress(OSError):
            if path.resolve().is_relative_to(self.folder):
                self.look("a file that was removed", path.read_bytes())
                self.removed.add(path.name)


WATCHING: list[Watch] = []  # those that run a call


@functools.cache
def _listen() -> None:
    """Tells watches of files that are removed. It cannot be taken back, and does nothing while none runs a
    call."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if not WATCHING or event != "os.remove":
            return
        name, descriptor = arguments
        path = Path(os.fsdecode(name))
        if isinstance(descriptor, int) and descriptor >= 0:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}")) / path
        for watch in WATCHING:
            watch.look_at_removed(path)

    sys.addaudithook(hear)


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """All that any logger is given, from DEBUG on."""
    text, write, form = io.StringIO(), logging.Logger.handle, logging.Formatter()

    def handle(log: logging.Logger, record: logging.LogRecord) -> None:
        text.write(f"{form.format(record)}\n")
        write(log, record)

    named = [log for log in logging.root.manager.loggerDict.values() if isinstance(log, logging.Logger)]
    before = [(log, log.level) for log in (logging.root, *named)]
    for log, _ in before:
        log.setLevel(logging.DEBUG)
    logging.Logger.handle = handle  # type: ignore[method-assign]
    try:
        yield text
    finally:
        logging.Logger.handle = write  # type: ignore[method-assign]
        for log, level in before:
            log.setLevel(level)
