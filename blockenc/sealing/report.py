"""What differs between weights and what was sealed of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NoReturn, TypeAlias

from blockenc.text import printable

Kind: TypeAlias = Literal["changed", "moved", "added", "removed", "form", "order", "metadata", "header"]
SHOWN = 10  # differences in an error's message


def chunks_in_words(first: int, behind: int) -> str:
    return f"chunk {first}" if behind == first + 1 else f"chunks {first} to {behind - 1}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference.

    kind: "changed", bytes of a tensor are others; "moved", they are bytes that were sealed in another place;
        "added" and "removed", a tensor; "form", the type or the shape of a tensor; "order", of the tensors;
        "metadata", of a file; "header", of a file, whose header is spelled in another way and means the same.
    tensor: the name of the tensor; None where it is none that differs.
    chunks: the first chunk that differs, and the one behind the last.
    bytes: the same in bytes of the tensor, row by row. elements: the same in values, those included that only
        a part belongs to.
    detail: what was sealed and what is there now, in words.
    """

    kind: Kind
    tensor: str | None = None
    chunks: tuple[int, int] | None = None
    bytes: tuple[int, int] | None = None
    elements: tuple[int, int] | None = None
    detail: str = ""

    def __str__(self) -> str:
        words: list[str] = [self.kind]
        if self.tensor is not None:
            words.append(repr(self.tensor))
        if self.chunks is not None and self.bytes is not None and self.elements is not None:
            words.append(
                f"{chunks_in_words(*self.chunks)} (bytes {self.bytes[0]} to {self.bytes[1] - 1}, "
                f"elements {self.elements[0]} to {self.elements[1] - 1})"
            )
        text = " ".join(words)
        return printable(f"{text}: {self.detail}" if self.detail else text)


@dataclasses.dataclass(frozen=True)
class Report:
    """What `blockenc.verify` found.

    differences: none if the weights are those that were sealed.
    unchecked: what the seal and the weights cannot be compared in, in words: a state_dict has no metadata,
        and an order of its own.
    tensors, chunks, bytes: how much was sealed. fingerprint: of the key.

    It is neither true nor false, so that nobody takes a report for its outcome: ask for `intact`.

    >>> Report((Difference("removed", "bias"),), (), 2, 3, 4096, "0123456789abcdef").intact
    False
    """

    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]
    tensors: int
    chunks: int
    bytes: int
    fingerprint: str

    @property
    def intact(self) -> bool:
        """Whether the weights are those that were sealed, in all that can be compared."""
        return not self.differences

    def __bool__(self) -> NoReturn:
        raise TypeError("a Report is neither true nor false: ask for its intact")

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int | None = None) -> str:
        """The report in lines. most: of how many differences; the others are counted."""
        shown = self.differences[:most]
        count = len(self.differences)
        verdict = f"{count} difference{'s' * (count != 1)} from what was sealed" if count else "intact"
        lines = [f"{verdict}: {self.tensors} tensors, {self.bytes} bytes, key {self.fingerprint}"]
        lines += [f"  {difference}" for difference in shown]
        if count > len(shown):
            lines.append(f"  and {count - len(shown)} more")
        lines += [f"  not compared: {what}" for what in self.unchecked]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"intact": self.intact, **dataclasses.asdict(self)}
