"""Models whose graphs are looked through. Apart from secrets, since traces show what lies beside a model."""

from __future__ import annotations

import torch

from blockenc import Cipher, nn


class Model(torch.nn.Module):
    """A stem and a head behind it, which has a cipher at hand."""

    def __init__(self, cipher: Cipher) -> None:
        super().__init__()
        self.encrypt = nn.Encrypt(cipher, dtype=torch.float32)
        self.stem = torch.nn.Conv2d(3, 4, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(self.encrypt(x))


class WithCipher(torch.nn.Module):
    """A model that closes over a Cipher."""

    def __init__(self, cipher: Cipher) -> None:
        super().__init__()
        self.cipher = cipher

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cipher.encrypt(x, dtype=torch.float32)
