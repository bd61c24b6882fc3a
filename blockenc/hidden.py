"""Secrets in local variables: not shown by tracebacks that print them, and not pickled.

Debuggers, error reporters and rich tracebacks print the local variables of every frame that an error passes.
So a function that is given key bytes or a password hides it in its first statement, before anything can
fail, and reveals it within the expression that needs it:

    def load(path: Path, password: str) -> bytes:
        password = hide(password)
        return derive(reveal(password).encode())
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar, cast

T = TypeVar("T")


class NotPickled:
    """Base class of what holds a secret: it refuses to be pickled, and is copied by reference."""

    __slots__ = ()

    def _refuse(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is not pickled, so that it does not end up on disk by accident: "
            "use save(path, password=...), or pass a Cipher to workers (it carries its plan only)"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._refuse()

    def __getstate__(self) -> NoReturn:  # what object.__reduce__ asks, too
        self._refuse()

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class Hidden(NotPickled):
    """A secret value whose repr does not show it."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<hidden>"


def hide(value: T) -> T:
    """`value` in a Hidden, unless it hides its secret already. Typed as the value it stands for."""
    return value if isinstance(value, NotPickled) else cast(T, Hidden(value))


def reveal(value: T) -> T:
    """The value that `hide` was given."""
    return cast(T, value._value) if isinstance(value, Hidden) else value
