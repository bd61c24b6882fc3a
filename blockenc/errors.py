"""The exceptions that are blockenc's own. Wrong arguments raise TypeError or ValueError."""

from __future__ import annotations

from typing import Any


class BlockencError(Exception):
    """Base class of the exceptions below."""


class KeyFileError(BlockencError, ValueError):
    """A key file cannot be read: damaged, foreign, of an unknown version, or the password is wrong."""


class WrongKeyError(BlockencError, ValueError):
    """The key given is not the key that the data was encrypted, or sealed, with, or the model protected."""


class SealError(BlockencError, ValueError):
    """Weights are not what was sealed; or a file is no seal, or no safetensors file, or a damaged one.

    report: a `blockenc.sealing.report.Report` of what differs from what was sealed; None where a file cannot
        be read at all, or the seal itself was altered.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class BackendError(BlockencError, RuntimeError):
    """The backend asked for is missing or cannot do what was asked."""


# What no file and no argument should make us raise; where one does, the user hears of it in one line.
UNFORESEEN = (ArithmeticError, LookupError, NotImplementedError, RecursionError)
