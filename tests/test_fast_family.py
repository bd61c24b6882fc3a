"""Published schemes in the fast recipe: every preset and network from configuration to table."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import (
    data,
    fast,
    fast_evaluate,
    fast_family,
    fast_folded,
    fast_models,
    fast_study,
    grid,
)
from benchmarks.accuracy.fast import RECIPES, Config, Run, train
from blockenc.schemes import PRESETS

CPU = torch.device("cpu")
TINY: dict[str, dict[str, Any]] = {
    "fastnet": {"width": 8, "epochs": 1, "batch": 50, "small": 0.0},
    **{
        name: {**RECIPES[name], "width": 24, "depth": 1, "epochs": 1, "batch": 50}
        for name in fast_models.OF_PATCHES
    },
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def colours() -> data.Data:
    """Noisy 16 x 16 images of four classes: two colours in the upper half, and two in the lower one."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 4
    x = 128 + 20 * torch.randn(600, 16, 16, 3, generator=g)
    for part, rows in ((y % 2, slice(0, 8)), (y // 2, slice(8, 16))):
        x[:, rows] += torch.where((part == 1).view(-1, 1, 1, 1), 1, -1) * torch.tensor([50.0, -20.0, 5.0])
    x = x.clamp(0, 255).to(torch.uint8)
    return data.Data(data.Part(x[:500], y[:500]), data.Part(x[500:], y[500:]), 4, 3, 16, "colours")


def quiet(said: str) -> None:
    pass


def test_recorded_configurations_stay_what_they_are() -> None:
    found = [json.loads(path.read_text()).get("config") for path in fast_study.RESULTS.rglob("*.json")]
    recorded = [config for config in found if config]
    assert len(recorded) > 100
    for config in recorded:
        assert Config(**config).recorded() == config
    for config in fast_study.rows().values():
        again = json.loads(json.dumps(config.recorded()))
        assert Config(**again) == config
    of_vit = fast_study.rows()["family-vit-VIT-m4-seed0"].recorded()
    assert (of_vit["preset"], of_vit["model"], of_vit["depth"], of_vit["optimizer"]) == (
        "VIT",
        "vit",
        4,
        "adamw",
    )


@pytest.mark.parametrize("fields, said", [
    ({"preset": "XOR"}, "scheme: expected one of SHF, .*, got 'XOR'"),
    ({"preset": "LE", "steps": "np"}, "--steps: expected none beside --preset, got 'np'"),
    ({"preset": "FFX", "profile": "decimal"}, "--profile: expected none beside --preset, got 'decimal'"),
    ({"model": "vit"}, "--stem: expected block for the model vit, got conv"),
    ({**RECIPES["vit"], "start": "random"}, "--start: expected plain or protected for the model vit, got"),
    ({"model": "convmixer"}, "--stem: expected block for the model convmixer, got conv"),
    ({"model": "vit", "stem": "block"}, "--small: expected 0 for a vit, whose places are counted, got 0.5"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**fields)


@pytest.mark.parametrize("preset", ["ELE", "ETC", "PE", "VIT"])
def test_reduced_images_have_the_same_key_or_are_refused(preset: str, colours: data.Data) -> None:
    config = Config(width=8, batch=50, small_size=8, preset=preset)
    with pytest.raises(
        ValueError, match=f"--small: expected 0, since {preset} has another key for each size"
    ):
        Run(config, colours, CPU, bf16=False)
    Run(dataclasses.replace(config, preset="LE"), colours, CPU, bf16=False)
    with pytest.raises(ValueError, match="--small-size: expected a multiple of the block size 8, got 12"):
        Run(dataclasses.replace(config, preset="LE", block_size=8, small_size=12), colours, CPU, bf16=False)


@pytest.mark.parametrize("preset, model", [
    *((preset, "fastnet") for preset in PRESETS),
    *((preset, model) for preset in fast_family.PUBLISHED for model in fast_models.OF_PATCHES),
])  # fmt: skip
def test_every_preset_is_trained_and_evaluated_with_every_network(
    preset: str, model: str, colours: data.Data, tmp_path: Path
) -> None:
    config = Config(preset=preset, **TINY[model])
    found = dataclasses.replace(colours, train=colours.train.some(50), test=colours.test.some(20))
    options = {"keys": 10, "images": 10, "precision": "float32", "say": quiet}
    assert fast_study.run_rows({"row": config}, tmp_path / "runs", tmp_path, found, **options)
    result = json.loads((tmp_path / "row.json").read_text())
    scores = result["evaluation"]
    assert len(scores["wrong_keys"]["accuracies"]) == 10
    assert set(scores["one_wrong_member"]) == set(PRESETS[preset]().kinds)
    assert {"right_key", "plain_images"} < set(scores)
    run = fast_evaluate.load(tmp_path / "runs" / "row", found, CPU)
    assert run.config == config
    assert run.right(found.test, run.cipher)[0] / 20 == scores["right_key"]["one_view"]
    for kind, score in scores["one_wrong_member"].items():
        cipher = config.cipher(config.key().replace(**{kind: config.key(1)}))
        assert run.right(found.test.some(10), cipher)[0] / 10 == score["mean"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_member_of_a_wrong_key_is_wrong(preset: str, colours: data.Data) -> None:
    config = Config(preset=preset)
    x = colours.test.x[:3].permute(0, 3, 1, 2)
    keys = [config.key(), config.key(1)]
    assert set(keys[0].kinds) == set(PRESETS[preset]().kinds)
    keys += [keys[0].replace(**{kind: keys[1]}) for kind in keys[0].kinds]
    seen = [config.cipher(key).encrypt(x) for key in keys]  # type: ignore[union-attr]
    assert torch.equal(seen[0], config.cipher().encrypt(x))  # type: ignore[union-attr]
    assert len({y.numpy().tobytes() for y in seen}) == len(keys) - (len(keys) == 3), (
        "of one member, it is the key"
    )


def test_block_sizes_of_presets() -> None:
    sizes = {preset: Config(preset=preset, block_size=8).scheme().block_size for preset in PRESETS}  # type: ignore[union-attr]
    assert sizes == {preset: 1 if preset == "PE" else 8 for preset in PRESETS}
    assert Config(preset="ETC").scheme(1).channels == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("preset, model, least", [
    ("", "vit", 0.9), ("VIT", "vit", 0.8), ("LE", "vit", 0.8), ("", "convmixer", 0.95),
    ("LE", "convmixer", 0.8), ("LE", "fastnet", 0.8), ("PE", "fastnet", 0.8),
])  # fmt: skip
def test_a_tiny_run_learns(preset: str, model: str, least: float, colours: data.Data, tmp_path: Path) -> None:
    lr = {"fastnet": 3.0, "vit": 0.1, "convmixer": 0.2}[model]  # of batches of 1024
    config = Config(preset=preset, **{**TINY[model], "epochs": 8, "lr": lr})
    run = train(config, tmp_path, colours, precision="float32", say=quiet)
    right = run.right(colours.test, run.cipher)[0] / len(colours.test)
    assert right > least, "chance is a quarter"
    if preset:
        scores = fast_evaluate.evaluate(run, tmp_path, keys=10, images=100)
        assert scores["right_key"]["one_view"] == right
        assert scores["wrong_keys"]["mean"] < right - 0.1
        assert scores["plain_images"] < right - 0.1


@pytest.mark.parametrize("model", fast_models.OF_PATCHES)
def test_a_resumed_run_is_the_whole_run(model: str, colours: data.Data, tmp_path: Path) -> None:
    config = Config(preset="LE", **TINY[model])
    whole = train(config, tmp_path / "whole", colours, precision="float32", say=quiet)
    asked = iter(range(4))
    with pytest.raises(fast.Stopped):
        train(
            config,
            tmp_path / "parts",
            colours,
            precision="float32",
            stop=lambda: next(asked, None) is None,
            say=quiet,
        )
    parts = train(config, tmp_path / "parts", colours, precision="float32", say=quiet)
    assert (parts.step, parts.record["sessions"]) == (10, 2)
    for name, t in whole.model.state_dict().items():
        assert torch.equal(t, parts.model.state_dict()[name]), name


@pytest.mark.parametrize("model, preset", [("vit", "VIT"), ("vit", "VIT_ETC"), ("convmixer", "SHF")])
def test_a_protected_start_is_the_plain_start(model: str, preset: str, colours: data.Data) -> None:
    x = colours.test.x[:5].permute(0, 3, 1, 2)
    plain = Config(**TINY[model])
    protected = dataclasses.replace(plain, preset=preset, start="protected")
    want = fast.build(plain, colours)(plain.prepare(x, None))
    seen = fast.build(protected, colours)(protected.prepare(x, protected.cipher()))
    torch.testing.assert_close(seen, want, rtol=1e-3, atol=1e-3)
    fixed = fast.build(dataclasses.replace(plain, learn_stem=False), colours)
    assert not any(p.requires_grad for p in fixed.stem.parameters())


@pytest.mark.parametrize("preset", grid.FOLDED)
def test_a_plain_vit_takes_the_key_of_a_preset(preset: str, colours: data.Data, tmp_path: Path) -> None:
    large = [data.Part(part.x[:50].repeat(1, 2, 2, 1), part.y[:50]) for part in (colours.train, colours.test)]  # type: ignore[union-attr]
    plain = Run(Config(**TINY["vit"]), data.Data(*large, 4, 3, 32, "larger"), CPU, bf16=False)
    found = fast_folded.evaluate_folded(plain, "", 4, tmp_path, preset, keys=10, images=20)
    assert found["exact"]["other_predictions"] == 0
    assert found["exact"]["largest_difference"] < 1e-4
    assert found["right_key"]["one_view"] == plain.right(plain.found.test, None)[0] / 50  # type: ignore[arg-type]
    assert set(found["one_wrong_member"]) == set(PRESETS[preset]().kinds)
    places = 64 if preset in ("ETC", "PE") else 1  # where blocks have keys of their own
    assert found["stem_weights"] == {"plain": 48 * 24, "folded": 48 * 24 * places}
    assert found["preset"] == preset


def test_operations_are_counted_in_groups_and_in_attention(colours: data.Data) -> None:
    images, places, width = 500, 16, 24
    embedding = 2 * 48 * width * places  # forward, and gradients of weights
    head = 3 * 4 * width
    mixer = Run(Config(**TINY["convmixer"]), colours, CPU, bf16=False)
    layer = 3 * places * (25 * width + width**2)
    assert mixer.record["flops"] == 2 * images * (embedding + layer + head)
    vit = Run(Config(**TINY["vit"]), colours, CPU, bf16=False)
    layer = 3 * (places * 12 * width**2 + 2 * places**2 * width)
    assert vit.record["flops"] == 2 * images * (embedding + layer + head)


def test_only_matrices_decay(colours: data.Data) -> None:
    for model in fast_models.OF_PATCHES:
        run = Run(Config(**TINY[model]), colours, CPU, bf16=False)
        assert isinstance(run.optimizer, torch.optim.AdamW)
        for group in run.optimizer.param_groups:
            assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] > 0}
        assert sum(len(g["params"]) for g in run.optimizer.param_groups) == len(list(run.model.parameters()))


def test_a_model_on_the_command_line_comes_with_its_recipe(
    monkeypatch: pytest.MonkeyPatch, colours: data.Data, tmp_path: Path
) -> None:
    seen: list[Config] = []

    def trained(config: Config, *_: Any, **__: Any) -> Run:
        seen.append(config)
        raise fast.Stopped

    monkeypatch.setattr(fast, "train", trained)
    monkeypatch.setattr(data, "load", lambda *_: colours)
    for model in fast_models.MODELS:
        argv = ["x", "--data", ".", "--out", str(tmp_path), "--preset", "LE", "--model", model, "--lr", "0.5"]
        monkeypatch.setattr(sys, "argv", argv)
        fast.main()
        assert seen[-1] == Config(**{**RECIPES[model], "preset": "LE", "model": model, "lr": 0.5})


def test_the_rows_of_the_family() -> None:
    rows = fast_family.rows()
    assert all(name.startswith(fast_family.PREFIX) for name in rows)
    assert list(fast_study.rows()) == [*fast_study.of_steps(), *rows]
    assert {config.preset for config in rows.values()} == {"", *fast_family.PUBLISHED}
    names = list(rows)
    for name, config in rows.items():
        assert not config.small
        assert name.endswith(f"{config.preset or 'plain'}-m{config.block_size}-seed{config.seed}")
        plain = name.replace(config.preset, "plain").replace("m8", "m4") if config.preset else name
        assert names.index(plain) <= names.index(name), "what a row is compared with comes first"
        assert dataclasses.replace(config, preset="", block_size=4) == rows[plain]


def test_the_table_of_the_family(tmp_path: Path) -> None:
    empty = fast_family.table(tmp_path).splitlines()
    assert "| VIT | 4 | vit | 0 | not run | not run |  |  |  | |" in empty
    assert (
        "| LE |  | Shake-PyramidNet-110, 305 epochs (arXiv 2001.07761) |  | 96.70 | 94.94 | 1.76 |  |  | |"
        in empty
    )

    def write(name: str, right: float, **scores: Any) -> None:
        found = {"evaluation": {**scores, "right_key" if scores else "plain": {"one_view": right}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))

    for seed, right in enumerate((0.8, 0.82)):
        wrong = {"accuracies": [0.1, 0.2 + 0.1 * seed]}
        one_wrong = {"np": {"mean": 0.3}, "scramble": {"mean": 0.25}, "shuffle": {"mean": 0.1}}
        more = {"wrong_keys": wrong, "one_wrong_member": one_wrong, "plain_images": 0.15}
        write(f"family-vit-VIT-m4-seed{seed}", right, **more)
    assert (
        "| VIT | 4 | vit | 2 | not run | 81.00 |  | 17.5 (10.0 to 30.0) | 30.0 (np) | 15.0 |"
        in fast_family.table(tmp_path).splitlines()
    )
    write("family-vit-plain-m4-seed0", 0.9)
    assert (
        "| VIT | 4 | vit | 2 | 90.00 | 81.00 | 9.00 | 17.5 (10.0 to 30.0) | 30.0 (np) | 15.0 |"
        in fast_family.table(tmp_path).splitlines()
    )
    assert "family" not in fast_study.table(tmp_path)
