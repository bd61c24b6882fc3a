"""Pictures for tests of attacks: as smooth as photos are, drawn without any file."""

from __future__ import annotations

import numpy as np
import torch


def pictures(count: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Noise that has little in high frequencies, and channels that are alike: uint8 [N, 3, size, size]."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(random.normal(size=(count, 4, size, size))) / frequency**1.5
    layers = np.fft.ifft2(spectrum).real
    images = layers[:, :1] + 0.3 * layers[:, 1:]
    images -= images.mean(axis=(2, 3), keepdims=True)
    images *= 50 / images.std(axis=(1, 2, 3), keepdims=True)
    images += random.uniform(80, 170, (count, 1, 1, 1))
    return torch.from_numpy(images.clip(0, 255).round().astype(np.uint8))
