"""Passports and keys under attack: forging works where it must, and random passports give chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

pytest.importorskip("torchvision")

from benchmarks.accuracy import data, fast
from benchmarks.accuracy.fast import Run, Stopped
from benchmarks.accuracy.fast_models import Norm
from benchmarks.passports import forging, page, study
from benchmarks.passports.forging import BlockMap, Budget
from benchmarks.passports.layers import issue, passports
from tests.test_fast import quiet, stop_after, stripes  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CHANCE = 0.25  # four classes
TINY: dict[str, Any] = {"width": 8, "epochs": 6, "batch": 50, "lr": 3.0, "small": 0.0}
BUDGET = Budget(images=(40, 200), tries=8, tried=100, steps=80, batch=40, queries=30, query_images=4000)


def trained(name: str, found: data.Data, folder: Path) -> Run:
    form = study.forms(**TINY)[name]
    return fast.train(form.config, folder, found, precision="float32", say=quiet,
                      model=study.network(form, found), kind=study.Training)  # fmt: skip


@pytest.fixture(scope="module")
def locked(stripes: data.Data, tmp_path_factory: pytest.TempPathFactory) -> Run:  # noqa: F811
    """With passports in the last group, the weak case: what comes before needs none."""
    return trained("passports-last", stripes, tmp_path_factory.mktemp("run"))


@pytest.fixture
def part(stripes: data.Data) -> data.Part:  # noqa: F811
    return forging.images_of(stripes, 200)


def test_passports_take_the_place_of_norms_in_groups(stripes: data.Data) -> None:  # noqa: F811
    form = study.forms(**TINY)["passports-last"]
    plain, changed = fast.build(form.config, stripes).eval(), study.network(form, stripes).eval()
    assert len(passports(changed)) == 2
    assert sum(isinstance(layer, Norm) for layer in changed.modules()) == 4
    x = torch.randn(5, 3, 16, 16)
    for layer in passports(changed):
        layer.kept = torch.ones(layer.conv.out_channels), torch.zeros(layer.conv.out_channels)
    torch.testing.assert_close(changed(x), plain(x), msg="a scale of 1 and no bias is the norm as it starts")
    assert all(layer.norm.momentum == Norm(1).momentum for layer in passports(changed))


def test_issued_passports_need_none_of_the_owners(locked: Run, part: data.Part) -> None:
    images = forging.prepared(locked, part.x[:2])
    issued = []
    for seed in (1, 2):
        run = forging.taken(locked)
        for layer in passports(run.model):
            forging.noise(layer, torch.Generator().manual_seed(seed))
        issue(run.model, images)
        issued.append([layer.get_buffer("scale") for layer in passports(run.model)])
    torch.testing.assert_close(*issued)


def test_random_passports_give_chance_and_forged_ones_do_not(locked: Run, part: data.Part) -> None:
    right = forging.accuracy(locked, None, forging.whole_test(locked))
    random = forging.tries(locked, forging.PASSPORTS["noise"], part, BUDGET)
    assert right > 0.9
    assert abs(sum(random) / len(random) - CHANCE) < 0.1
    before = [layer.get_buffer("scale").clone() for layer in passports(locked.model)]
    for name, attack in forging.FORGERIES.items():
        forged = attack(locked, part, BUDGET)
        assert forged["accuracy"] > right - 0.15, name
        assert forged["accuracy"] > max(random) + 0.2, name
    assert all(map(torch.equal, before, (layer.get_buffer("scale") for layer in passports(locked.model))))


def test_passports_of_all_layers_are_forged_too(stripes: data.Data, part: data.Part, tmp_path: Path) -> None:  # noqa: F811
    run = trained("passports-all", stripes, tmp_path)
    right = forging.accuracy(run, None, forging.whole_test(run))
    assert forging.scored(run)["signature"] > 0.95, "the sign loss"
    assert max(forging.tries(run, forging.PASSPORTS["noise"], part, BUDGET)) < right - 0.3
    assert forging.forge_affine(run, part, BUDGET)["accuracy"] > right - 0.15


def test_a_passport_gives_the_numbers_it_was_made_for(locked: Run) -> None:
    for layer in passports(locked.model):
        wanted = torch.randn(layer.conv.out_channels, generator=torch.Generator().manual_seed(0))
        found = forging.passport_of(layer.conv, wanted, layer.get_buffer("scale"))
        torch.testing.assert_close(layer.conv(found).mean((0, 2, 3)), wanted, rtol=1e-3, atol=1e-3)


def test_every_shuffle_and_np_is_a_map_of_blocks(stripes: data.Data) -> None:  # noqa: F811
    config = study.forms(**TINY)["key-images"].config
    cipher, x = config.cipher(), stripes.test.x[:3].permute(0, 3, 1, 2)  # type: ignore[union-attr]
    encryption = BlockMap(4, 3)
    torch.testing.assert_close(encryption(config.prepare(x, None)), config.prepare(x, None))
    units = torch.eye(48).view(48, 3, 4, 4)  # linear: normalised images of which grey is 0
    columns = [
        (config.prepare((127.5 + 64 * sign * units).round().to(torch.uint8), cipher)) for sign in (1, -1)
    ]
    matrix = functional.pixel_unshuffle((columns[0] - columns[1]).float(), 4).view(48, 48).T
    with torch.no_grad():
        encryption.conv.weight.copy_((matrix / matrix.abs().max()).round().view(48, 3, 4, 4))
    torch.testing.assert_close(encryption(config.prepare(x, None)), config.prepare(x, cipher))


def test_a_run_of_all_forms_and_its_tables(stripes: data.Data, tmp_path: Path) -> None:  # noqa: F811
    runs, results = tmp_path / "runs", tmp_path / "results"
    results.mkdir()
    budget = Budget(images=(40,), tries=2, tried=50, steps=3, batch=20, queries=5, query_images=160)
    tiny = {**TINY, "epochs": 2}

    def run(name: str, **more: Any) -> None:
        form = study.forms(**tiny)[name]
        study.run_form(name, form, runs, results, stripes, budget, precision="float32", say=quiet, **more)

    with pytest.raises(Stopped):
        run("key-images", stop=stop_after(8))
    with pytest.raises(Stopped):  # after its last step, between attacks
        run("key-images", stop=stop_after(12))
    assert not list(results.iterdir())
    known = json.loads((runs / "key-images" / "scores.json").read_text())
    for name in study.forms(**tiny):
        run(name)
    found = page.load(results)
    assert found.keys() == page.FORMS.keys()
    assert found["key-images"]["accuracy"]["one_view"] == known["right"][0], "it went on where it was stopped"
    assert found["plain"]["forged"] == []
    for name, attacks in (("passports-last", forging.FORGERIES), ("key-folded", forging.SEARCHES)):
        assert [row["attack"] for row in found[name]["forged"]] == list(attacks)
        assert all(0 <= row["accuracy"] <= 1 for row in found[name]["forged"])
    assert found["key-images"]["forged"][0]["queries"] == 4, "160 images, 40 a query"
    assert found["key-folded"]["accuracy"] == found["plain"]["accuracy"]
    (results / "key-images.json").touch()
    before = (results / "key-images.json").stat().st_mtime_ns
    run("key-images")
    assert (results / "key-images.json").stat().st_mtime_ns == before, "what is done is left alone"
    tables = page.accuracies(found), page.forged(found)
    assert all(said in tables[1] for said in (*page.FORMS.values(),) if said != "plain")
    assert f"{100 * found['passports-all']['accuracy']['one_view']:.2f}" in tables[0]
    assert page.accuracies({}) == page.forged({}) == page.NOT_RUN
