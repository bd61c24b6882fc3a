"""benchmarks/blinding: blinded stems do what they say, readers read what is there, the page shows it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import blockenc
from benchmarks.accuracy import data
from benchmarks.accuracy.fast import Config, build
from benchmarks.accuracy.fast_models import make_stem, whiten_, whitening
from benchmarks.accuracy.train import key_set
from benchmarks.blinding import page, readers, stems, tune
from blockenc.nn import BlockEmbedding

pytest.importorskip("scipy")

M = 4
CIPHER = blockenc.Cipher(key_set(0), block_size=M)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Photographs, as smooth noise: uint8 [N, 3, 32, 32]."""
    noise = torch.randn(40, 3, 4, 4, generator=torch.manual_seed(0))
    colour = noise.mean(1, keepdim=True) + 0.3 * noise
    smooth = nn.functional.interpolate(colour, (32, 32), mode="bicubic")
    return (128 + 60 * smooth + torch.randn(smooth.shape)).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def stem(images: torch.Tensor) -> BlockEmbedding:
    return plain_stem(images, M)


def plain_stem(images: torch.Tensor, block_size: int) -> BlockEmbedding:
    """What training of the fast recipe starts with."""
    whole = make_stem("embedding", block_size, 3, 2, "ramp", 256)
    whiten_(whole, whitening((images / 255 - 0.5) / 0.25))
    return stems.stem_of(whole)


def read(layers: list[nn.Module], stem: BlockEmbedding, images: torch.Tensor) -> list[dict[str, float]]:
    """What the readers of weights and of behaviour find, once the key is in."""
    locked = blockenc.protect(nn.Sequential(*layers, nn.GELU()), CIPHER)[:-1]  # type: ignore[index]
    plan = CIPHER.plan()
    one = torch.zeros(1, 3, M, M, dtype=torch.uint8)
    F = readers.responses(lambda blocks: locked(blocks).flatten(1), one)
    assert stem.weight is not None
    start = stem.weight[:, :, 0].detach().double().T.numpy()
    natural = np.cov(stems.blocks_of(images, M).double().numpy().T)
    return [
        readers.by_weights(stems.stem_of(locked), plan, M),
        readers.by_behaviour(F, plan, M, start, natural),
    ]


def test_a_plain_stem_is_read(stem: BlockEmbedding, images: torch.Tensor) -> None:
    weights, behaviour = read([stem], stem, images)
    assert weights["rows_within_8"] == behaviour["rows_within_8"] == 1
    assert behaviour["substituted"] == behaviour["position"] == 1


@pytest.mark.parametrize("kind", ["decoys", "pairs"])
def test_decoys_hide_the_key_in_the_weights_alone(
    kind: str, stem: BlockEmbedding, images: torch.Tensor
) -> None:
    g = torch.manual_seed(1)
    layers = stems.decoys(stem, 8, 8, g) if kind == "decoys" else stems.pairs(stem, 8, g)
    plain = stem(images)
    assert (nn.Sequential(*layers)(images) - plain).abs().max() < 1e-3 * plain.abs().max()
    weights, behaviour = read(layers, stem, images)
    assert page.leak(weights) < 20
    assert behaviour["rows_within_8"] == behaviour["position"] == 1


@torch.no_grad()
def test_quiet_noise_is_quiet_on_natural_blocks_alone(images: torch.Tensor) -> None:
    stem = plain_stem(images, 2)
    blocks = stems.blocks_of(images, 2)
    natural, other = images[:8], torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    change, directions = {}, stems.quiet_directions(blocks)
    constant = directions.view(12, 64, -1).sum(1)
    assert constant.abs().max() < 1e-3
    for name, quiet in (("rough", None), ("quiet", directions)):
        noisy = stems.noisy(stem, 1.0, torch.manual_seed(2), blocks, quiet)[0]
        change[name] = [float((noisy(x) - stem(x)).square().mean()) for x in (natural, other)]
        assert (
            float((noisy(images) - stem(images)).mean((0, 2, 3)).abs().max())
            < 0.02 * change[name][0] ** 0.5 + 1e-3
        )
    assert change["quiet"][0] < 0.1 * change["rough"][0]
    assert change["quiet"][1] > 0.5 * change["rough"][1]


def test_nothing_is_read_where_nothing_is() -> None:
    F = np.random.default_rng(0).standard_normal((48, 256, 32))
    scores, _, _ = readers.by_order(F, CIPHER.plan())
    assert scores["rows_within_8"] < 0.15


def test_logits_betray_the_order_of_values(stem: BlockEmbedding) -> None:
    torch.manual_seed(3)
    head = nn.Sequential(
        nn.PixelShuffle(M), nn.Conv2d(24, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    locked = blockenc.protect(
        nn.Sequential(stem, head), CIPHER, example=torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    )
    found = readers.by_logits(locked, CIPHER.plan(), 2, torch.manual_seed(4))
    assert found["rows_within_8"] > 0.9
    assert found["neighbour"] > 0.6


def test_the_penalty_falls_in_training(stem: BlockEmbedding) -> None:
    wide = tune.widened(stem, 2, 1.0, torch.manual_seed(5))
    before = tune.penalty(stem, M)
    assert 0 < tune.penalty(wide, M) < before < 3
    optimizer = torch.optim.SGD(wide.parameters(), 1.0)
    for _ in range(3):
        loss = tune.penalty(wide, M)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert tune.penalty(wide, M) < loss


@torch.no_grad()
def test_the_penalty_knows_what_readers_look_for() -> None:
    pixel = torch.arange(48) // 3
    plain = BlockEmbedding(M, 16, rank=1)  # each value, as it is, to the token of its own pixel
    assert plain.weight is not None
    plain.weight.zero_()
    plain.weight[pixel, torch.arange(48), 0] = 1
    assert 2 < tune.penalty(plain, M) < 3
    other = copy.deepcopy(plain)
    other.weight.copy_(plain.weight.roll(1, 0))
    assert float(tune.penalty(plain, M) - tune.penalty(other, M)) == pytest.approx(1, abs=1e-4)
    nothing = BlockEmbedding(M, 384, rank=None, init="random")
    assert tune.penalty(nothing, M) < 0.15


def test_tuning_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 256, (64, 8, 8, 3), dtype=torch.uint8)
    part = data.Part(x, torch.arange(64) % 10)
    found = data.Data(part, part, 10, 3, 8, "noise")
    config = Config(stem="embedding", width=4, epochs=2, batch=32, small=0)

    def tuned(name: str) -> dict[str, torch.Tensor]:
        how = {"found": found, "device": torch.device("cpu"), "bf16": False}
        return tune.tune(build(config, found), config, 1.0, tmp_path / name, **how).state_dict()

    whole = tuned("whole.pt")
    assert not torch.equal(whole["stem.0.table"], build(config, found).state_dict()["stem.0.table"])
    step, done = tune.Tuning.train_step, []

    def interrupted(run: tune.Tuning) -> None:
        done.append(run.step)
        if len(done) == 3:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(tune, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(tune.Tuning, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned("part.pt")
    part_done = tuned("part.pt")
    assert done == [0, 1, 2, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), part_done.values()))


def test_the_page_shows_the_recorded_results() -> None:
    results = json.loads(page.RESULTS.read_text())
    text = page.PAGE.read_text()
    assert page.fill(text, results) == text, "run python -m benchmarks.blinding.page"
    changed = copy.deepcopy(results)
    changed["rows"][-1]["behaviour"]["rows_within_8"] /= 2
    assert page.fill(text, changed) != text
    assert page.plot(results)[:4] == b"\x89PNG"
