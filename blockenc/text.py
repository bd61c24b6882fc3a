"""Text of others, such as file names and what a manifest says, as it may be shown on a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """`str(text)` on one line, with every character that is not printable escaped.

    A file name or a manifest may hold control sequences, which change a terminal's title or colours, move its
    cursor, or hide and reorder what is shown; and bytes that are no text at all.

    >>> printable("a\\x1b[31m.png")
    'a\\\\x1b[31m.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
