"""The public parameters of an encryption: what is done to the blocks, never with which key."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Literal

from blockenc.steps import IMAGE, KINDS, Ffx, Period, Step
from blockenc.steps.base import positive_int
from blockenc.weaknesses import weaknesses

STEPS = ("shuffle", "np", "ffx")  # what a scheme does by default, and all that version 1 knows
FFX_PROFILES = ("byte", "decimal")
VERSIONS = (1, 2)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The public parameters of an encryption (docs/scheme.md; design: MaungMaung & Kiya, arXiv 2105.14756).

    block_size: M; images are cut into M x M blocks, so M must divide their height and width. A step may have
        a block size and a period of its own, which must divide them, too.
    steps: the transforms in the order applied: names of kinds ("shuffle", "np", "ffx", "colour", "rotate",
        "scramble"), which stand for their defaults, or steps such as
        `blockenc.steps.Scramble(period="image")`. Repeats allowed. A step that is its kind's default is kept
        as the name.
    channels: C, the channels of the images. A block vector has M*M*C values.
    ffx: the profile of ffx steps that are given by name: "byte" (FF1, a permutation of 0..255) or "decimal"
        (the papers' pyffx on three digits; values leave the byte range, so the result is float32 or uint16).

    Raises TypeError or ValueError naming the field.

    >>> from blockenc.steps import Np, Scramble
    >>> scheme = Scheme(block_size=16, steps=[Scramble(period="image"), Np(unit="block", period="image")])
    >>> scheme.version, Scheme.from_json(scheme.to_json()) == scheme
    (2, True)
    """

    block_size: int = 4
    steps: tuple[str | Step, ...] = STEPS
    channels: int = 3
    ffx: Literal["byte", "decimal"] = "byte"

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", positive_int(self.block_size, "block_size"))
        object.__setattr__(self, "channels", positive_int(self.channels, "channels"))
        if self.ffx not in FFX_PROFILES:
            raise ValueError(f"ffx: expected one of {', '.join(FFX_PROFILES)}, got {self.ffx!r}")
        object.__setattr__(self, "ffx", FFX_PROFILES[FFX_PROFILES.index(self.ffx)])  # not an enumeration's
        if isinstance(self.steps, (str, bytes, Mapping, Set)) or not isinstance(self.steps, Iterable):
            raise TypeError(f'steps: expected a sequence such as ("shuffle", "np"), got {self.steps!r}')
        given = [self._step(step) for step in self.steps]
        if not given:
            raise ValueError(f"steps: expected at least one of {', '.join(KINDS)}, got none")
        bound = []
        for n, step in enumerate(given):
            try:
                bound.append(step.bound(self.block_size, self.channels))
            except ValueError as error:
                # What is the scheme's own is named as such, what is the step's with its place.
                whose = "" if step.block_size is None and step.period is None else f"steps[{n}]: "
                raise ValueError(f"{whose}{error}") from None
        _check_values(bound)
        if all(step.is_idle for step in bound):
            raise ValueError(
                f"steps: {', '.join(step.kind for step in bound)} of whole blocks changes nothing where a "
                'period is a single block; give a larger period, such as period="image"'
            )
        profiles = {step.profile for step in bound if isinstance(step, Ffx)}
        sizes = {step.block_size for step in bound}
        plain = len(sizes) == 1 and len(profiles) < 2 and all(map(_is_of_version_1, bound))
        object.__setattr__(self, "_bound", tuple(bound))
        object.__setattr__(self, "_version", 1 if plain else 2)
        if plain:
            object.__setattr__(self, "block_size", bound[0].block_size)
            object.__setattr__(self, "ffx", next(iter(profiles), self.ffx))
            object.__setattr__(self, "steps", tuple(step.kind for step in bound))
        else:
            object.__setattr__(self, "ffx", "decimal" if "decimal" in profiles else "byte")
            unbound = (step.unbound(self.block_size) for step in bound)
            object.__setattr__(self, "steps", tuple(_named(step) for step in unbound))

    def _step(self, step: object) -> Step:
        if isinstance(step, Step):
            return step
        if not isinstance(step, str) or step not in KINDS:
            raise ValueError(f"steps: expected names out of {', '.join(KINDS)}, or steps, got {step!r}")
        return Ffx(profile=self.ffx) if step == Ffx.kind else KINDS[step]()

    @property
    def version(self) -> int:
        """Of the semantics in docs/scheme.md: 1 where version 1 can express the scheme, else 2."""
        return self._version  # type: ignore[attr-defined, no-any-return]

    @property
    def bound_steps(self) -> tuple[Step, ...]:
        """The steps as objects, with the block size and the period of each filled in."""
        return self._bound  # type: ignore[attr-defined, no-any-return]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the steps' kinds, in order."""
        return tuple(step.kind for step in self.bound_steps)

    @property
    def length(self) -> int:
        """L = M*M*C, the values of a block vector."""
        return self.block_size * self.block_size * self.channels

    @property
    def side(self) -> int:
        """What must divide the height and the width of images: the least common multiple of all block sizes
        and periods."""
        sizes = [(step.block_size, step.period) for step in self.bound_steps]
        return math.lcm(*(size for pair in sizes for size in pair if isinstance(size, int)))

    @property
    def is_decimal(self) -> bool:
        """Whether there is an ffx step of the decimal profile, after which values are up to 999."""
        return any(isinstance(step, Ffx) and step.profile == "decimal" for step in self.bound_steps)

    @property
    def makes_integers(self) -> bool:
        """Whether floats become integers on the way: where there is an ffx step, or one on nibbles."""
        return any(step.makes_integers for step in self.bound_steps)

    @property
    def depends_on_size(self) -> bool:
        """Whether a step has the whole image as its period: its secret is then another for another size."""
        return any(step.period == IMAGE for step in self.bound_steps)

    @property
    def moves_geometry(self) -> bool:
        """Whether what an image shows changes places, so that masks, boxes and keypoints would have to,
        too."""
        return any(step.moves_geometry for step in self.bound_steps)

    def periods(self, height: int, width: int) -> list[Period]:
        """The period of each step in images of that size, in pixels, which `side` divides.

        Raises ValueError where a step asks for more than its period has.
        """
        return [step.period_of(height, width, self.channels) for step in self.bound_steps]

    def infos(self, height: int, width: int, images: Sequence[bytes | None] = (None,)) -> list[list[str]]:
        """What the key schedule binds the secrets to (docs/scheme.md, "Key schedule"): of each step, for each
        image.

        height, width: of the images, in pixels. images: the ids of images that have keys of their own; None
            stands for all images that have not.
        """
        if self.version == 1 and all(image is None for image in images):
            ends = f"C={self.channels}/M={self.block_size}"
            numbers = [self.kinds[:n].count(kind) for n, kind in enumerate(self.kinds)]
            steps = zip(self.kinds, numbers)
            return [[f"blockenc/1/{kind}/{number}/{ends}"] * len(images) for kind, number in steps]
        periods = self.periods(height, width)
        texts = [step.text(period) for step, period in zip(self.bound_steps, periods)]
        whole = ";".join([f"blockenc/2/C={self.channels}", *texts])
        of_images = ["" if image is None else f"/image={image.hex()}" for image in images]
        return [[f"{whole}/{n}{of_image}" for of_image in of_images] for n in range(len(texts))]

    def key_space_bits(self, height: int | None = None, width: int | None = None) -> float:
        """log2 of the number of different secrets that the steps can have together.

        height, width: of the images, in pixels; needed only where a step has the whole image as its period.
            Raises ValueError if they are then missing, or if a block size or period does not divide them.

        The number is that of the papers: it counts the secrets there are, each step's on its own, whichever
        of them do the same in the end. It is no claim of security: what an attack has to try may be far
        less, and a `Key` gives at most 2^256 of them, so that the effective key space has at most 256 bits.

        >>> Scheme(4, ["shuffle"]).key_space_bits()  # 48!
        202.9...
        >>> from blockenc.schemes import ETC
        >>> ETC().key_space_bits(224, 224)
        2501.3...
        """
        sizes = {"height": height, "width": width}
        if self.depends_on_size:
            for name, size in sizes.items():
                if size is None:
                    raise ValueError(f'{name}: expected a number of pixels, as a period is "image"; got None')
        for name, size in sizes.items():
            if size is not None and positive_int(size, name) % self.side:
                raise ValueError(f"{name}: expected a multiple of {self.side}, got {size}")
        periods = self.periods(height or 0, width or 0)
        return sum(step.key_space_bits(period) for step, period in zip(self.bound_steps, periods))

    def warnings(self, height: int | None = None, width: int | None = None) -> list[str]:
        """What is known to be weak about the scheme, in sentences that name the experiment behind them.

        height, width: of the images, in pixels; without them nothing is said of the key space of a scheme
            with a period that is the whole image. Raises ValueError as `key_space_bits`.

        That none is found is no claim of security: without keys for each image (`Cipher(per_image=True)`)
        every scheme falls to a few chosen images (docs/attacks.md).

        >>> [warning.split(":")[0][:16] for warning in Scheme(4, ["np"]).warnings()]
        ['np alone', 'every block is t', 'equal blocks of ', 'key space of 45 ']
        """
        known = not self.depends_on_size or (height is not None and width is not None)
        bits = self.key_space_bits(height, width) if known else None
        return weaknesses(self.bound_steps, bits)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types; `from_dict` is the inverse."""
        if self.version == 1:
            fields = {"block_size": self.block_size, "steps": list(self.steps), "channels": self.channels}
            return {**fields, "ffx": self.ffx, "version": 1}
        steps = [step.unbound(self.block_size).to_dict() for step in self.bound_steps]
        return {"version": 2, "block_size": self.block_size, "channels": self.channels, "steps": steps}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Scheme:
        """Raises ValueError on an unknown field or version, so that a newer file is not misread."""
        if not isinstance(fields, Mapping):
            raise ValueError(f"scheme: expected fields such as block_size and steps, got {fields!r}")
        version = fields.get("version", 1)
        if type(version) is not int or version not in VERSIONS:
            raise ValueError(f"version: this release knows scheme versions 1 and 2, got {version!r}")
        known = {"version", "block_size", "steps", "channels", *(["ffx"] if version == 1 else [])}
        if set(fields) - known:
            raise ValueError(f"scheme: expected fields out of {', '.join(sorted(known))}, got {fields!r}")
        rest = {name: value for name, value in fields.items() if name != "version"}
        if version == 2 and isinstance(rest.get("steps"), (list, tuple)):
            rest["steps"] = [step_from(step, n) for n, step in enumerate(rest["steps"])]
        return cls(**rest)

    @classmethod
    def from_json(cls, text: str) -> Scheme:
        try:
            fields = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"scheme: not JSON ({error})") from None
        return cls.from_dict(fields)


def _check_values(steps: list[Step]) -> None:
    """Raises ValueError where a step takes bytes, and a step before it may leave other values."""
    decimal = False
    for step in steps:
        if decimal and not step.takes_any_values:
            raise ValueError(
                f"steps: {step.kind!r} cannot follow a decimal ffx, which leaves the range 0..255; got "
                f"{', '.join(repr(s.kind) for s in steps)}"
            )
        decimal = decimal or (isinstance(step, Ffx) and step.profile == "decimal")


def _is_of_version_1(step: Step) -> bool:
    """Whether version 1 knows a bound step; it has one block size for all, which is the caller's to
    compare."""
    plain = Ffx(profile=step.profile) if isinstance(step, Ffx) else KINDS[step.kind]()
    return (
        step.kind in STEPS
        and dataclasses.replace(step, block_size=None, period=None) == plain
        and (step.period == step.block_size)
    )


def _named(step: Step) -> str | Step:
    """The name of a kind for a step that is its kind's default."""
    return step.kind if step == KINDS[step.kind]() else step


def step_from(fields: Any, n: int) -> Step:
    """Step number n of a scheme, from its fields as in JSON. Raises ValueError or TypeError naming it."""
    if not isinstance(fields, Mapping) or fields.get("kind") not in list(KINDS):
        raise ValueError(
            f"steps[{n}]: expected an object with a kind out of {', '.join(KINDS)}, got {fields!r}"
        )
    kind = KINDS[fields["kind"]]
    rest = {name: value for name, value in fields.items() if name != "kind"}
    known = [field.name for field in dataclasses.fields(kind)]
    if set(rest) - set(known):
        raise ValueError(f"steps[{n}]: expected fields out of kind, {', '.join(known)}, got {fields!r}")
    try:
        return kind(**rest)
    except (TypeError, ValueError) as error:
        raise type(error)(f"steps[{n}]: {error}") from None
