"""The passport layer that keys in images are compared with, and docs/passports.md."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

from benchmarks.passports import __main__ as program
from benchmarks.passports import page
from benchmarks.passports.layers import PassportConv, passports, with_passports
from benchmarks.protect.study import LARGE_STEM, model_of


def layer() -> PassportConv:
    draw = torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    scale, bias = torch.randn(2, 2, 3, 8, 8, generator=draw)
    return PassportConv(conv, scale, bias, torch.tensor([1.0, -1.0, 1.0, -1.0]))


def test_scale_and_bias_are_those_of_the_passports() -> None:
    passport, x = layer(), torch.randn(5, 3, 8, 8)
    gamma, beta = (passport.conv(passport.get_buffer(name)).mean((0, 2, 3)) for name in ("scale", "bias"))
    expected = nn.functional.batch_norm(passport.conv(x), None, None, gamma, beta, training=True)
    torch.testing.assert_close(passport(x), expected)
    passport.keep()
    torch.testing.assert_close(passport(x), expected)


def test_sign_loss_trains_the_weights_to_spell_the_signature() -> None:
    passport = layer()
    signs = -passport.affine()[0].detach().sign()  # the opposite of what it starts with
    passport.signs.copy_(signs)
    optimizer = torch.optim.SGD(passport.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        passport.sign_loss().backward()
        optimizer.step()
    assert torch.equal(passport.affine()[0].sign(), signs)


def test_a_state_dict_has_no_passport() -> None:
    assert set(layer().state_dict()) == {
        "conv.weight",
        *(f"norm.{n}" for n in nn.BatchNorm2d(1, affine=False).state_dict()),
    }


def test_what_does_not_fit_is_refused() -> None:
    conv, fits, signs = nn.Conv2d(3, 4, 3, bias=False), torch.zeros(1, 3, 8, 8), torch.ones(4)
    with pytest.raises(ValueError, match=r"scale: expected \[n, 3, h, w\], got \[1, 2, 8, 8\]"):
        PassportConv(conv, fits[:, :2], fits, signs)
    with pytest.raises(ValueError, match="bias: expected"):
        PassportConv(conv, fits, fits[0], signs)
    with pytest.raises(ValueError, match=r"signs: expected \[4\], got \[3\]"):
        PassportConv(conv, fits, fits, signs[:3])
    with pytest.raises(ValueError, match="conv: expected one without a bias"):
        PassportConv(nn.Conv2d(3, 4, 3), fits, fits, signs)


def test_passports_are_what_the_model_makes_of_images() -> None:
    model, images = model_of(LARGE_STEM), torch.randn(2, 3, 32, 32)
    changed = with_passports(model, ("layer4",), images)
    assert len(passports(changed)) == 4
    with torch.no_grad():
        before = model.layer3(model.layer2(model.layer1(model.relu(model.bn1(model.conv1(images))))))
    first = changed.layer4[0].conv1
    torch.testing.assert_close(first.get_buffer("scale"), before[:1])
    torch.testing.assert_close(first.get_buffer("bias"), before[1:])
    assert changed(images).shape == (2, 10)


def test_rows() -> None:
    rows = {row["form"]: row for row in program.measure(batch=2, rounds=1)}
    plain, key, few, all_of_them = (
        rows[name]
        for name in ("plain", "key in the images", "passports, last stage", "passports, all stages")
    )
    assert key["parameters"] == plain["parameters"] > few["parameters"] > all_of_them["parameters"]
    assert plain["passports"] == key["passports"] == 0 < few["passports"] < all_of_them["passports"]
    assert all(row["inference_ms"] > 0 for row in rows.values())
    assert {name for name, row in rows.items() if "training_ms" not in row} == {
        "key folded in",
        "passports, all stages, scale and bias kept",
    }


def test_the_page_shows_the_recorded_results() -> None:
    results, text = page.load(page.RESULTS), page.PAGE.read_text()
    assert page.fill(text, results) == text, "run python -m benchmarks.passports.page"
    changed = copy.deepcopy(results)
    changed["cost"]["rows"][-1]["inference_ms"] *= 2
    assert page.fill(text, changed) != text
