"""The keys of the authors' released code (arXiv 2105.14756), for reproducing papers, not for secrets."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np

from blockenc.hidden import hide, reveal
from blockenc.keys.key import AnySecret


class PublishedSecret(AnySecret):
    """A seed and a password, used the way the authors' released code does (arXiv 2105.14756)."""

    __slots__ = ("_password", "_seed")

    def __init__(self, seed: int, password: str) -> None:
        self._seed = seed
        self._password = hide(password)

    def _digest(self) -> bytes:
        info = f"blockenc/published/{self._seed}".encode()
        return hmac.digest(reveal(self._password).encode(), info, "sha256")

    @property
    def fingerprint(self) -> str:
        return self._digest()[:8].hex()

    def _contents(self) -> tuple[bytes, ...]:
        return (b"published" + self._digest(),) * 3  # longer than a Key's, so that they are never equal

    @property
    def derives(self) -> bool:
        return False

    def keystreams(self, infos: Sequence[str]) -> _PublishedKeystreams:
        return _PublishedKeystreams(self._seed)

    def cipher_keys(self, infos: Sequence[str], profile: str) -> list[bytes]:
        if profile != "decimal":
            raise ValueError(f'ffx: the published code has only the "decimal" profile, got {profile!r}')
        return [hide(reveal(self._password).encode())] * len(infos)


class _PublishedKeystreams:
    """What the published code draws: everything from the same seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def uniforms(self, bounds: np.ndarray) -> np.ndarray:
        raise ValueError("key: the published code (KeySet.from_seed) has shuffle, np and ffx steps only")

    def permutations(self, count: int, length: int) -> np.ndarray:
        import torch

        if count != 1:
            raise ValueError("key: the published code (KeySet.from_seed) treats every block alike")
        return torch.randperm(length, generator=torch.Generator().manual_seed(self._seed)).numpy()[None, None]

    def masks(self, length: int) -> np.ndarray:
        return np.asarray(self.permutations(1, length)[:, 0] > length / 2)
