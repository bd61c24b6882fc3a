"""Transforms out of encrypted images alone: exact where photos betray them, chance where there is noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.attacks import encrypted_alone
from blockenc import Cipher, Key, Scheme
from blockenc.attacks import ciphertext_only as attack
from blockenc.schemes import ETC, LE, NP
from blockenc.steps import Ffx, Np, Shuffle
from tests.attack_images import pictures

pytest.importorskip("scipy")

KEY = Key(bytes(range(32)))
FOUR = [["shuffle"], ["np"], ["shuffle", "np"], ["shuffle", "np", "ffx"]]


def photos(count: int, seed: int) -> torch.Tensor:
    """Pictures whose channels differ from each other, as those of photos do, and reach black and white."""
    x = pictures(count, 48, seed).float()
    mixed = x + torch.tensor([0.25, 0.0, -0.15]).view(3, 1, 1) * (x - x.roll(1, dims=1))
    gains = torch.tensor([0.8, 1.0, 1.25]).view(3, 1, 1)
    return (gains * (mixed - 128) + 110).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("steps", FOUR, ids="+".join)
@pytest.mark.parametrize("block_size", [2, 4])
def test_keys_are_recovered_from_encrypted_images_alone(steps: list[str], block_size: int) -> None:
    scheme, x = Scheme(block_size, steps), photos(60, 0)
    cipher = Cipher(KEY, scheme)
    found = attack.ciphertext_only(scheme, cipher.encrypt(x), photos(30, 1), x)
    # Values may be taken for those beside them in the order of a table.
    assert found.scores["share"] > (0.6 if "ffx" in steps else 0.9999)
    assert found.scores["PSNR"] > 40
    assert found.used["images"] == 60
    other = photos(2, 2)[..., :32, :16]  # the transform holds for other images, of other sizes
    wrong = found.recovered.decrypt(cipher.encrypt(other)).int() - other.int()
    assert wrong.abs().float().mean() < 1


def test_tables_behind_and_before_negatives() -> None:
    """np, ffx, np: the four forms that a table shows in."""
    scheme, x = Scheme(4, [Np(), Ffx(), Np()]), photos(60, 0)
    found = attack.ciphertext_only(scheme, Cipher(KEY, scheme).encrypt(x), photos(30, 1), x)
    assert found.scores["PSNR"] > 40


def test_nothing_is_recovered_of_noise_or_from_unlike_photos() -> None:
    noise = torch.randint(0, 256, (60, 3, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(0))
    scheme = Scheme(4, FOUR[-1])
    found = attack.ciphertext_only(scheme, Cipher(KEY, scheme).encrypt(noise), photos(30, 1), noise)
    assert found.scores["share"] < 3 / 256
    x = photos(60, 0)
    misled = attack.ciphertext_only(scheme, Cipher(KEY, scheme).encrypt(x), noise[:30], x)
    assert misled.scores["share"] < 0.5


def test_values_stay_within_what_the_steps_exchange() -> None:
    x = photos(20, 0)
    found = attack.ciphertext_only(NP(), Cipher(KEY, NP()).encrypt(x), photos(30, 1), x)
    plan = found.recovered.plan()
    assert np.array_equal(plan.source[0], np.arange(48))
    assert found.scores["share"] == 1


def test_what_is_not_open_to_it_is_refused() -> None:
    x = photos(2, 0)
    for scheme, reason in [
        (ETC(), "not the same for all blocks"),
        (LE(), "cells that are no bytes"),
        (Scheme(4, ["ffx"], ffx="decimal"), "cells that are no bytes"),
        (Scheme(4, [Ffx(), Shuffle(), Ffx()]), "more than one table"),
    ]:
        assert attack.why_not(scheme) == reason
        with pytest.raises(ValueError, match=f"scheme: not open to this attack, {reason}"):
            attack.ciphertext_only(scheme, x, x)


def test_images_that_do_not_fit_are_refused() -> None:
    x = photos(2, 0)
    for wrong in (x[:, :2], x[..., :6], x.float(), x[0], x[:0]):
        for name, pair in (("encrypted", (wrong, x)), ("photos", (x, wrong))):
            with pytest.raises(
                ValueError, match=f"{name}: expected uint8 .N, 3, H, W., N at least 1, H and W multi"
            ):
                attack.ciphertext_only(Scheme(4), *pair)


def test_a_run_of_the_study_is_a_row_of_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted_alone, "IMAGES", (2, 20))
    run = encrypted_alone.measure(photos(20, 0), photos(10, 1), 4, "np")
    assert (run["steps"], run["images"], run["scores"]["share"]) == ("np", 20, 1.0)
    about = {"cpu": "C", "threads": 1, "date": "2026-01-01T00", "photos": "some"}
    rows = encrypted_alone.table({**about, "runs": [run]}).splitlines()
    assert f"| np | 4 | not run | 1.000 | {run['used']['seconds']:.1f} |" in rows
    assert "| ffx | 2 | not run | not run | not run |" in rows


def test_no_secret_is_shown() -> None:
    x = photos(20, 0)
    found = attack.ciphertext_only(NP(), Cipher(KEY, NP()).encrypt(x), x, x)
    mask = found.recovered.plan().flips[0]
    assert str(mask.tolist()) not in repr(found) + repr(found.recovered)
    assert set(found.to_dict()) == {"attack", "scores", "used"}
