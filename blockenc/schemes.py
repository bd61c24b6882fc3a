"""The published schemes by name, as functions that return a `Scheme`.

Each docstring names the source, what the published code does differently, and what the scheme is known not to
withstand. Their secrets are drawn from a key as docs/scheme.md says; keys that others published are used with
`blockenc.ExplicitKey`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Literal

from blockenc.scheme import Scheme
from blockenc.steps import IMAGE, Colour, Ffx, Np, Rotate, Scramble, Shuffle, Step
from blockenc.steps.base import positive_int

__all__ = ["ELE", "ETC", "FFX", "LE", "NP", "PE", "PRESETS", "SHF", "VIT", "VIT_ETC"]


def SHF(block_size: int = 4, channels: int = 3) -> Scheme:
    """Pixel shuffle: the values of each block change places, in all blocks alike.

    Source: MaungMaung & Kiya, arXiv 2010.00801 (IEEE TIFS 16) and 2105.14756 (APSIPA Trans. 10).

    Published code: the equation of the paper scatters, its algorithm and the code gather; so do we.
    `KeySet.from_seed` has the code's keys.

    Does not withstand: chosen or known plaintexts, which reveal the one permutation; each block keeps its
    values, so that a coarse picture shows.

    >>> SHF().steps, SHF().length
    (('shuffle',), 48)
    """
    return Scheme(block_size, (Shuffle(),), channels)


def NP(block_size: int = 4, channels: int = 3) -> Scheme:
    """Negative/positive transform: half of the values of each block are negated, in all blocks alike.

    Source: MaungMaung & Kiya, arXiv 2010.00801 (IEEE TIFS 16) and 2105.14756 (APSIPA Trans. 10).

    Published code: selects every position whose number in a permutation is above L/2, one less than half;
    `KeySet.from_seed` has its keys.

    Does not withstand: one encrypted photo, in which how neighbours correlate tells the whole mask
    (docs/attacks.md); estimating the mask from a model, after which PGD succeeds in 78 % of attacks at M = 4
    (arXiv 2010.00801).

    >>> NP(block_size=8).steps
    ('np',)
    """
    return Scheme(block_size, (Np(),), channels)


def FFX(block_size: int = 4, channels: int = 3) -> Scheme:
    """Half of the values of each block are enciphered by a Feistel cipher, in all blocks alike.

    Source: MaungMaung & Kiya, arXiv 2010.00801 (IEEE TIFS 16) and 2105.14756 (APSIPA Trans. 10).

    Published code: three decimal digits, so that values leave the byte range; that is
    `Scheme(steps=["ffx"], ffx="decimal")` with `KeySet.from_seed`. This is the byte profile (FF1).

    Does not withstand: people's eyes, as half of the values stay as they are; nor frequencies of some tens of
    encrypted photos, which reveal the mask and nearly all of the table (docs/attacks.md).

    >>> FFX().steps, FFX().ffx
    (('ffx',), 'byte')
    """
    return Scheme(block_size, (Ffx(),), channels)


def LE(block_size: int = 4, channels: int = 3) -> Scheme:
    """Learnable encryption: the nibbles of each block are negated or not, then change places.

    Source: M. Tanaka, Learnable Image Encryption, ICCE-TW 2018.

    Published code: negates, shuffles and negates again at the places of the result, with one mask that is
    taken from the permutation (its numbers above 48, 47 of 96), in `Scheme(4, [Np(cells="nibble"),
    Shuffle(cells="nibble"), Np(cells="nibble")])` with an `ExplicitKey`.

    Does not withstand: chosen plaintexts, of which two blocks reveal the key; nor SIA-GAN, a network that
    recovers pictures from encrypted ones (LPIPS to the originals: 0.091).

    >>> [(step.kind, step.cells, step.period) for step in LE().bound_steps]
    [('np', 'nibble', 4), ('shuffle', 'nibble', 4)]
    """
    return Scheme(block_size, (Np(cells="nibble"), Shuffle(cells="nibble")), channels)


def ELE(block_size: int = 4, channels: int = 3) -> Scheme:
    """Extended learnable encryption: LE with a key for each block of the image, whose blocks then move.

    Source: Madono and others, AAAI-20 workshop, arXiv 2001.07761.

    Published code: negates before and after the shuffle, as that of LE does, for images of 32 x 32; the
    paper's figure moves the blocks first, the code last.

    Does not withstand: chosen plaintexts, of which two images reveal the key; nor SIA-GAN, a network that
    recovers pictures from encrypted ones (LPIPS to the originals: 0.148).

    >>> [(step.kind, step.period) for step in ELE().bound_steps]
    [('np', 'image'), ('shuffle', 'image'), ('scramble', 'image')]
    """
    steps = (Np(cells="nibble", period=IMAGE), Shuffle(cells="nibble", period=IMAGE), Scramble(period=IMAGE))
    return Scheme(block_size, steps, channels)


def ETC(block_size: int = 16, channels: int = 3) -> Scheme:
    """Encryption-then-compression: whole blocks move, turn, are negated and get other colours, and JPEG still
    compresses them.

    block_size: 16 for JPEG with 4:2:0 subsampling, 8 for 4:4:4 or grey.

    Source: Kurihara, Kiya and others, 2015 and later.

    Published code: assigns the channels of a block in place, one after the other, which duplicates a channel
    in five of the six orders, so that it cannot be decrypted; published accuracies of EtC come from that.
    Here the channels change places. Papers negate each block with probability 1/2, this scheme exactly half
    of them.

    Does not withstand: solvers of jigsaw puzzles, which put the blocks back by how their edges fit (arXiv
    2202.00806, 2207.08109; docs/attacks.md).

    >>> ETC().kinds, ETC(block_size=8).side
    (('scramble', 'rotate', 'np', 'colour'), 8)
    """
    return Scheme(block_size, (Scramble(period=IMAGE), *_etc_of_blocks(period=IMAGE)), channels)


def PE(colour: bool = False, channels: int = 3) -> Scheme:
    """Pixel-based encryption: half of all values of the image are negated, each on its own.

    colour: whether the channels of each pixel change places, too.

    Source: Sirichotedumrong and others, ICIP 2019.

    Published code: negates each value with probability 1/2, this scheme exactly half of them. A new key for
    each image ("random PE") is `Cipher(key, PE(), per_image=True)`.

    Does not withstand: comparing neighbouring pixels, or negating all values above 127, both without any key;
    one chosen plaintext reveals the whole mask.

    >>> PE().kinds, PE(colour=True).kinds
    (('np',), ('np', 'colour'))
    """
    colours = (Colour(unit="pixel", period=IMAGE),) if colour else ()
    return Scheme(1, (Np(period=IMAGE), *colours), channels)


def VIT(block_size: int = 16, channels: int = 3) -> Scheme:
    """For vision transformers: patches move, and in all of them alike values change places and half are
    negated.

    block_size: the patch of the model.

    Source: Kiya and others, arXiv 2207.05366 and 2308.07612.

    Published code: numbers the values of a patch by channel, row and column, we by row, column and channel.
    The restricted permutations of arXiv 2408.08529 and 2408.05737 are steps with `fixed`.

    Does not withstand: chosen or known plaintexts; nor jigsaw solvers that undo pixel and block shuffling
    together (arXiv 2211.02369).

    >>> [(step.kind, step.period) for step in VIT().bound_steps]
    [('scramble', 'image'), ('shuffle', 16), ('np', 16)]
    """
    return Scheme(block_size, (Scramble(period=IMAGE), Shuffle(), Np()), channels)


def VIT_ETC(block_size: int = 16, channels: int = 3, sub_block_size: int | None = None) -> Scheme:
    """EtC inside each patch, in all patches alike, whose patches then move.

    block_size: the patch of the model, the "main block". sub_block_size: what moves, turns, is negated and
        gets other colours inside it; None is half of block_size. Raises ValueError where that is no integer.

    Source: Sensors 23(7) 3400 (2023) for vision transformers; Information 15(11) 723 (2024) for ConvMixers,
    which need their neighbours and so have no last step.

    Published code: none known. The papers have it with a key for each patch, too, which is each of the first
    four steps with period="image".

    Does not withstand: chosen or known plaintexts; nor solvers of jigsaw puzzles, for which the patches are
    pieces (arXiv 2202.00806).

    >>> [(step.kind, step.block_size, step.period) for step in VIT_ETC().bound_steps][2:]
    [('np', 8, 16), ('colour', 8, 16), ('scramble', 16, 'image')]
    """
    b = sub_block_size
    if b is None:
        if positive_int(block_size, "block_size") % 2:
            raise ValueError(f"block_size: expected an even number without sub_block_size, got {block_size}")
        b = block_size // 2
    of_patch = (Scramble(b, block_size), *_etc_of_blocks(b, block_size))
    return Scheme(block_size, (*of_patch, Scramble(period=IMAGE)), channels)


def _etc_of_blocks(
    block_size: int | None = None, period: int | Literal["image"] | None = None
) -> tuple[Step, ...]:
    """What EtC does to each block of a period after the blocks have moved."""
    return Rotate(block_size, period), Np(block_size, period, unit="block"), Colour(block_size, period)


PRESETS: Mapping[str, Callable[..., Scheme]] = {
    preset.__name__: preset for preset in (SHF, NP, FFX, LE, ELE, ETC, PE, VIT, VIT_ETC)
}


def named(name: str, block_size: int | None = None, channels: int = 3) -> Scheme:
    """The scheme of that name, with its own block size unless another is given.

    Raises ValueError for a name that is not in `PRESETS`, or a block size where it has none to choose.

    >>> named("ETC", 8) == ETC(block_size=8)
    True
    """
    if name not in PRESETS:
        raise ValueError(f"scheme: expected one of {', '.join(PRESETS)}, got {name!r}")
    if block_size is None:
        return PRESETS[name](channels=channels)
    if "block_size" not in inspect.signature(PRESETS[name]).parameters:
        raise ValueError(f"block_size: expected none for the scheme {name}, got {block_size}")
    return PRESETS[name](block_size=block_size, channels=channels)


def name_of(scheme: Scheme) -> str | None:
    """The name under which `named` gives the scheme, for its block size and channels; None if it has none.

    >>> name_of(ETC(8)), name_of(Scheme(4, ["np", "shuffle"]))
    ('ETC', None)
    """
    for name in PRESETS:
        for block_size in (scheme.block_size, None):
            with contextlib.suppress(ValueError):
                if named(name, block_size, scheme.channels) == scheme:
                    return name
    return None
