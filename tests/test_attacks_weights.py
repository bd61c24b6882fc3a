"""Readers of weights: exact where weights are known or smooth, chance where they are random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import blockenc
from blockenc import Cipher, Key, Scheme
from blockenc.attacks import weights
from tests.attack_images import pictures

CIPHER = Cipher(Key(bytes(range(32))), Scheme(4, ["shuffle", "np"]))
PLAN = CIPHER.plan()


def locked(public: nn.Conv2d) -> torch.Tensor:
    protected = blockenc.protect(nn.Sequential(public), CIPHER, mean=(0.5,) * 3, std=(0.2, 0.25, 0.3))
    return protected[0].weight.detach()  # type: ignore[index]


def test_a_key_in_public_weights_is_read_also_after_fine_tuning() -> None:
    pytest.importorskip("scipy")
    torch.manual_seed(0)
    public = nn.Conv2d(3, 64, 4, stride=4)
    found = weights.match_public(locked(public), public.weight, PLAN)
    assert found.scores == {"key share": 1.0}
    x = pictures(2, 32)
    assert torch.equal(found.recovered.decrypt(CIPHER.encrypt(x)), x)
    tuned = locked(public) + 0.5 * public.weight.std() * torch.randn_like(public.weight)
    assert weights.match_public(tuned, public.weight, PLAN).scores["key share"] > 0.95
    other = nn.Conv2d(3, 64, 4, stride=4).weight
    assert weights.match_public(locked(public), other, PLAN).scores["key share"] < 0.15
    assert weights.match_public(locked(public), public.weight).scores == {}
    with pytest.raises(ValueError, match="folded, public: expected two of one shape"):
        weights.match_public(locked(public), other[:2])


def test_tables_and_places_are_read_where_they_are_smooth() -> None:
    cipher = Cipher(Key(bytes(range(32))), Scheme(4, ["shuffle", "np", "ffx"]))
    embedding = blockenc.nn.BlockEmbedding(4, 64)
    row, column, _ = np.indices((4, 4, 3)).reshape(3, -1)
    place = np.stack([np.exp(-((row - i) ** 2 + (column - j) ** 2)) for i in range(4) for j in range(4)])
    with torch.no_grad():
        embedding.weight[:, :, 0] = torch.from_numpy(place).repeat(4, 1)
        embedding.weight[:, :, 1:] = 0
    protected = blockenc.protect(embedding, cipher)
    table, columns = (t.detach().numpy() for t in (protected.table, protected.weight))
    assert weights.read_values(table, cipher.plan())["rank_correlation"] > 0.99
    assert weights.read_places(columns, cipher.plan())["neighbour"] == 1
    random = np.random.default_rng(0)
    table, columns = random.normal(size=table.shape), random.normal(size=columns.shape)
    guessed = weights.read_values(table, cipher.plan())
    assert guessed["rank_correlation"] < 0.2
    assert guessed["rows_within_8"] < guessed["rows_within_8_guessing"] + 0.05
    guessed = weights.read_places(columns, cipher.plan(), 4)
    assert abs(guessed["neighbour"] - guessed["neighbour_guessing"]) < 0.25
    assert guessed["part_of_the_block"] < 0.25
