"""The exceptions that are blockenc's own. Wrong arguments raise TypeError or ValueError."""

from __future__ import annotations


class BlockencError(Exception):
    """Base class of the exceptions below."""


class KeyFileError(BlockencError, ValueError):
    """A key file cannot be read: damaged, foreign, of an unknown version, or the password is wrong."""


class WrongKeyError(BlockencError, ValueError):
    """The key given is not the key that the data was encrypted with, or the model protected."""


class BackendError(BlockencError, RuntimeError):
    """The backend asked for is missing or cannot do what was asked."""


# What no file and no argument should make us raise; where one does, the user hears of it in one line.
UNFORESEEN = (ArithmeticError, LookupError, NotImplementedError, RecursionError)
