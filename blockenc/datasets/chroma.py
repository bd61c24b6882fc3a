"""Chroma at half the resolution (JPEG's 4:2:0), brought to full size without a look at other blocks.

Decoders (libjpeg's "fancy upsampling") make four values of each sample of chroma, of three parts of it and
one of its neighbour in each direction. At the border of a unit of 16 x 16 pixels the neighbour is another
unit's: after encryption one that lies elsewhere in the picture. So the samples are computed back, and
interpolated again within units.
"""

from __future__ import annotations

import numpy as np

UNIT = 8  # samples of chroma, the side of what a file codes together
CLOSE = 2.0  # at most; what rounding, twice, makes of values that were interpolated as told above


def within_units(pixels: np.ndarray) -> np.ndarray:
    """Y, Cb, Cr [H, W, 3] uint8 of a decoder, H and W multiples of 16: with chroma interpolated within units.

    Other decoders do not mix units; what they give is returned as it is.
    """
    result = pixels.copy()
    for channel in (1, 2):
        given = pixels[:, :, channel].astype(np.float32)
        means = (given[::2, ::2] + given[::2, 1::2] + given[1::2, ::2] + given[1::2, 1::2]) / 4
        samples = np.rint(_from_means(_from_means(means).T).T)
        if np.abs(_interpolated(samples) - given).max() > CLOSE:
            return pixels
        rows, columns = (side // UNIT for side in samples.shape)
        units = samples.reshape(rows, UNIT, columns, UNIT).transpose(1, 3, 0, 2)
        full = _interpolated(units).transpose(2, 0, 3, 1).reshape(given.shape)
        result[:, :, channel] = np.clip(np.rint(full), 0, 255)
    return result


def _interpolated(samples: np.ndarray) -> np.ndarray:
    """Twice as many along the first two axes; beyond the edge lies what lies on it."""
    for axis in (0, 1):
        s = np.moveaxis(samples, axis, 0)
        full = np.empty((2 * len(s), *s.shape[1:]), s.dtype)
        full[::2] = (3 * s + np.concatenate((s[:1], s[:-1]))) / 4
        full[1::2] = (3 * s + np.concatenate((s[1:], s[-1:]))) / 4
        samples = np.moveaxis(full, 0, axis)
    return samples


def _from_means(means: np.ndarray) -> np.ndarray:
    """The samples s along the first axis, of the means of the two values that were made of each.

    These are (s[i-1] + 6 s[i] + s[i+1]) / 8: a tridiagonal system, solved by elimination.
    """
    samples, last = np.ascontiguousarray(8 * means), len(means) - 1
    shares = np.empty(len(means), means.dtype)
    for i in range(len(means)):
        own = 6 + (i == 0) + (i == last)  # on the edge the sample is its own neighbour
        pivot = own - (shares[i - 1] if i else 0)
        samples[i] = (samples[i] - (samples[i - 1] if i else 0)) / pivot
        shares[i] = 1 / pivot
    for i in range(last - 1, -1, -1):
        samples[i] -= shares[i] * samples[i + 1]
    return samples
