"""The public parameters of an encryption: what is done to a block, never with which key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

STEPS = ("shuffle", "np", "ffx")
FFX_PROFILES = ("byte", "decimal")
VERSION = 1
# A block vector beyond this is a mistake (a 512 x 512 block of RGB is below it), and its permutation
# would take seconds to derive.
MAX_BLOCK_LENGTH = 1 << 20


def positive_int(value: object, name: str) -> int:
    """`value` as an int of at least 1, or an error that names the argument."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r} ({type(value).__name__})")
    number = value.__index__()
    if number < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {number}")
    return int(number)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The public parameters of an encryption (design: MaungMaung & Kiya, arXiv 2105.14756).

    block_size: M; images are cut into M x M blocks, so M must divide their height and width.
    steps: the transforms in the order applied, each one of "shuffle", "np", "ffx"; repeats allowed.
    channels: C, the channels of the images. A block vector has M*M*C values.
    ffx: the profile of the Feistel cipher: "byte" (FF1, a permutation of 0..255) or "decimal" (the
        papers' pyffx on three digits; values leave the byte range, so the result is float32 or uint16).
    version: of the semantics in ``docs/scheme.md``; only 1 exists.

    Raises TypeError or ValueError naming the field.
    """

    block_size: int = 4
    steps: tuple[str, ...] = STEPS
    channels: int = 3
    ffx: Literal["byte", "decimal"] = "byte"
    version: int = VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", positive_int(self.block_size, "block_size"))
        object.__setattr__(self, "channels", positive_int(self.channels, "channels"))
        if self.length > MAX_BLOCK_LENGTH:
            raise ValueError(
                f"block_size: a block of {self.block_size} x {self.block_size} x {self.channels} has "
                f"{self.length} values, more than the {MAX_BLOCK_LENGTH} supported"
            )
        if isinstance(self.steps, (str, bytes)) or not hasattr(self.steps, "__iter__"):
            raise TypeError(f'steps: expected a sequence such as ("shuffle", "np"), got {self.steps!r}')
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise ValueError(f"steps: expected at least one of {', '.join(STEPS)}, got none")
        for n, step in enumerate(self.steps):
            if step not in STEPS:
                raise ValueError(f"steps: expected names out of {', '.join(STEPS)}, got {step!r}")
            if self.ffx == "decimal" and step != "shuffle" and "ffx" in self.steps[:n]:
                raise ValueError(
                    f"steps: {step!r} cannot follow a decimal ffx, which leaves the range 0..255; "
                    f"got {', '.join(map(repr, self.steps))}"
                )
        if self.ffx not in FFX_PROFILES:
            raise ValueError(f"ffx: expected one of {', '.join(FFX_PROFILES)}, got {self.ffx!r}")
        if self.version != VERSION or type(self.version) is not int:
            raise ValueError(f"version: this release knows scheme version {VERSION}, got {self.version!r}")

    @property
    def length(self) -> int:
        """L = M*M*C, the values of a block vector."""
        return self.block_size * self.block_size * self.channels

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types; `from_dict` is the inverse."""
        return {**dataclasses.asdict(self), "steps": list(self.steps)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Scheme:
        """Raises ValueError on an unknown field, so that a newer file is not misread."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, Mapping) or set(fields) - known:
            raise ValueError(f"scheme: expected fields out of {', '.join(sorted(known))}, got {fields!r}")
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> Scheme:
        try:
            fields = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"scheme: not JSON ({error})") from None
        return cls.from_dict(fields)
