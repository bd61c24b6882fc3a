"""Measures, statistics and reconstructions: each against an independent computation, a weak case that it
breaks, and noise in which it finds nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blockenc import Cipher, Key, Scheme
from blockenc.attacks import measures, reconstruction, statistics
from blockenc.schemes import ETC, FFX, NP, PE, SHF
from tests.attack_images import pictures

KEY = Key(bytes(range(32)))


def encrypted(scheme: Scheme, images: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = Cipher(KEY, scheme).encrypt(images)
    return found


def noise(count: int = 4, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(0))


# --- measures -----------------------------------------------------------------------------------


def test_measures_are_those_of_their_formulas() -> None:
    """Window by window, as the paper defines SSIM."""
    x, y = pictures(2, 13), pictures(2, 13, seed=1)
    mixed = (0.7 * x + 0.3 * y).to(torch.uint8)
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / np.outer(bell, bell).sum()
    windows = [images.unfold(2, 11, 1).unfold(3, 11, 1).reshape(-1, 11, 11) for images in (x, mixed)]
    found = []
    for a, b in zip(*(window.double().numpy() for window in windows)):
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        both = (weights * (a - mean_a) * (b - mean_b)).sum()
        lightness = (2 * mean_a * mean_b + 2.55**2) / (mean_a**2 + mean_b**2 + 2.55**2)
        found.append(lightness * (2 * both + 7.65**2) / (var_a + var_b + 7.65**2))
    assert len(found) == 2 * 3 * 9
    assert measures.ssim(mixed, x) == pytest.approx(np.mean(found), abs=1e-5)
    errors = (mixed.double() - x.double()).square().mean(dim=(1, 2, 3)).numpy()
    assert measures.psnr(mixed, x) == pytest.approx(np.mean(10 * np.log10(255**2 / errors)))


def test_measures_know_equal_from_unrelated() -> None:
    x = pictures(4)
    assert measures.scores(x, x) == {"SSIM": pytest.approx(1), "PSNR": 100.0}
    assert abs(measures.ssim(noise(), x)) < 0.05
    with pytest.raises(ValueError, match="image: expected at least 11 x 11 pixels, got 8 x 8"):
        measures.ssim(x[..., :8, :8], x[..., :8, :8])
    with pytest.raises(ValueError, match="original: expected uint8"):
        measures.psnr(x, x[:1])
    with pytest.raises(ValueError, match="image: expected uint8"):
        measures.psnr(x.float(), x)


# --- statistics ---------------------------------------------------------------------------------


def test_statistics_of_noise_are_the_expected_ones() -> None:
    """The values that the papers give for random images, within some standard deviations."""
    a, b = noise(8).split(4)
    found = statistics.statistics(a).scores
    assert found["entropy"] == pytest.approx(8, abs=0.01)
    assert found["chi-square"] == pytest.approx(1, abs=0.4)
    assert found["symmetry"] > 0.9
    assert max(abs(found[name]) for name in statistics.NEIGHBOURS) < 0.02
    assert statistics.npcr(a, b) == pytest.approx(255 / 256, abs=0.002)
    assert statistics.uaci(a, b) == pytest.approx(257 / 768, abs=0.004)


def test_statistics_of_pictures_and_of_np() -> None:
    x = pictures(4)
    plain, after = statistics.statistics(x).scores, statistics.statistics(encrypted(NP(), x)).scores
    assert plain["horizontal"] > 0.8
    pairs = x[..., :-1].double().ravel(), x[..., 1:].double().ravel()
    assert plain["horizontal"] == pytest.approx(np.corrcoef(*pairs)[0, 1])
    assert plain["vertical"] == pytest.approx(statistics.correlation(x.transpose(2, 3)))
    assert plain["diagonal"] < plain["horizontal"]
    assert abs(after["horizontal"]) < plain["horizontal"] / 2
    assert after["symmetry"] > 0.95 > plain["symmetry"]
    assert statistics.correlation(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)) == 1
    with pytest.raises(ValueError, match="direction: expected one of horizontal"):
        statistics.correlation(x, "sideways")
    with pytest.raises(ValueError, match="images: expected uint8"):
        statistics.entropy(x.float())


def test_sensitivity_counts_what_one_value_and_another_key_change() -> None:
    x, scheme = pictures(2), SHF()
    other = Cipher(KEY.derive("another"), scheme).encrypt(x)
    found = statistics.sensitivity(x, Cipher(KEY, scheme).encrypt, other)
    values = x[0].numel()
    assert found["NPCR"] == pytest.approx(1 / values)  # no diffusion
    assert found["UACI"] == pytest.approx(1 / 255 / values)
    assert found["key NPCR"] > 0.8


# --- reconstruction -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [NP(), PE()], ids=["NP", "PE"])
def test_feature_reconstruction_undoes_np_but_for_what_is_above_half(scheme: Scheme) -> None:
    x = pictures(4)
    found = reconstruction.feature_reconstruction(encrypted(scheme, x), x)
    assert torch.equal(found.recovered, reconstruction.folded(x))
    assert found.scores["SSIM of outlines"] == pytest.approx(1)
    assert reconstruction.feature_reconstruction(noise(), x).scores["SSIM of outlines"] < 0.05


def test_minimum_difference_recovers_a_smooth_picture() -> None:
    ramp = torch.arange(32)
    x = torch.stack([20 + ramp[:, None] + ramp, 200 - ramp[:, None] + 0 * ramp, 60 + ramp[:, None] + ramp])
    x = x.to(torch.uint8)[None]
    y = encrypted(PE(colour=True), x)
    found = reconstruction.minimum_difference(y, x)
    assert torch.equal(found.recovered, x)
    assert found.used["given pixels an image"] == 1
    assert reconstruction.minimum_difference(noise(4, 32), pictures(4, 32)).scores["SSIM"] < 0.1
    with pytest.raises(ValueError, match="encrypted: expected at most 4 channels, got 5"):
        reconstruction.minimum_difference(torch.zeros(1, 5, 16, 16, dtype=torch.uint8), x)


def test_block_means_see_through_a_shuffle() -> None:
    x = pictures(4)
    y = encrypted(SHF(), x)
    found = reconstruction.block_means(y, x, 4)
    assert found.scores["SSIM"] > measures.ssim(y, x) + 0.1
    grey = x.double().reshape(4, 3, 16, 4, 16, 4).mean(dim=(1, 3, 5)).round()
    assert torch.equal(found.recovered[:, 1, ::4, ::4].double(), grey)
    assert reconstruction.block_means(noise(), x, 4).scores["SSIM"] < 0.35  # even blocks are like even areas


def test_equal_blocks_are_counted() -> None:
    x = noise(1, 16)
    x[..., :8, :8] = 7  # 4 of 16 blocks, and another two
    x[..., 8:12, 8:] = 9
    found = reconstruction.equal_blocks(encrypted(Scheme(), x), x, 4)
    assert found.scores == {"share": 6 / 16, "share of plain": 6 / 16}
    assert (found.recovered[..., :8, :8] > 0).all()
    assert int((found.recovered > 0).sum()) == 3 * (64 + 32)
    assert reconstruction.equal_blocks(noise(), noise(), 4).scores["share"] == 0


def test_frequencies_break_ffx() -> None:
    x = pictures(32)
    y = encrypted(FFX(), x)
    found = reconstruction.ffx_frequencies(y, x, 4)
    assert found.scores["mask"] == 1
    assert found.scores["SSIM"] > 0.9 > 3 * measures.ssim(y, x)
    assert reconstruction.ffx_frequencies(noise(), pictures(4), 4).scores["SSIM"] < 0.05


@pytest.mark.parametrize("scheme, block_size", [(NP(), 4), (PE(), None)], ids=["NP", "PE"])
def test_correlations_break_np(scheme: Scheme, block_size: int | None) -> None:
    x = pictures(24, 32)
    found = reconstruction.np_correlations(encrypted(scheme, x), x, block_size)
    assert found.scores["mask"] > 0.99
    assert found.scores["SSIM"] > 0.95
    of_noise = noise(24, 32)
    found = reconstruction.np_correlations(encrypted(scheme, of_noise), of_noise, block_size)
    assert found.scores["mask"] < 0.75


def test_outlines_are_hidden_by_what_moves_blocks() -> None:
    x = pictures(4)
    y = encrypted(ETC(8), x)
    assert reconstruction.feature_reconstruction(y, x).scores["SSIM of outlines"] < 0.5
