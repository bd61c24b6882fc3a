"""Pictures for tests of attacks: as smooth as photos are, drawn without any file."""

from __future__ import annotations

import numpy as np
import torch


def pictures(count: int, size: int = 64, seed: int = 0, smooth: float = 1.5) -> torch.Tensor:
    """Noise that has little in high frequencies, and channels that are alike: uint8 [N, 3, size, size].

    smooth: the power of the frequency by which amplitudes fall; photos have about 1.
    """
    random = np.random.default_rng(seed)
    # Of twice the size, of which a quarter is taken: the whole would go on at the opposite side.
    frequencies = np.fft.fftfreq(2 * size)
    frequency = np.hypot(*np.meshgrid(frequencies, frequencies))
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(random.normal(size=(count, 4, 2 * size, 2 * size))) / frequency**smooth
    layers = np.fft.ifft2(spectrum).real[..., :size, :size]
    images = layers[:, :1] + 0.3 * layers[:, 1:]
    images -= images.mean(axis=(2, 3), keepdims=True)
    images *= 50 / images.std(axis=(1, 2, 3), keepdims=True)
    images += random.uniform(80, 170, (count, 1, 1, 1))
    return torch.from_numpy(images.clip(0, 255).round().astype(np.uint8))
