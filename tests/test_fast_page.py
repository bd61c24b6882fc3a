"""The fast recipe's tables in docs/accuracy.md say what the recorded runs say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch

from benchmarks.accuracy import fast_page, fast_study, leak


def test_the_page_is_of_the_recorded_runs() -> None:
    text = fast_page.PAGE.read_text()
    assert fast_page.fill(text, fast_study.RESULTS) == text


def test_another_result_changes_the_page(tmp_path: Path) -> None:
    for path in fast_study.RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    text = fast_page.fill(fast_page.PAGE.read_text(), tmp_path)
    for name, change in {
        "conv-plain-seed0": lambda found: found["evaluation"]["plain"].update(one_view=0.5),
        "folded-m4-of-conv-plain-seed0": lambda found: found["exact"].update(other_predictions=7),
        "tune-m4-folded-lr0.1-images500-epochs1-seed0": lambda found: found["evaluation"]["right_key"].update(
            one_view=0.25
        ),
    }.items():
        path = tmp_path / f"{name}.json"
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))
        changed = fast_page.fill(text, tmp_path)
        assert changed != text, name
        text = changed


def test_models_with_a_key_of_a_preset_are_beside_its_rows(tmp_path: Path) -> None:
    for path in fast_study.RESULTS.glob("*.json"):
        if not path.name.startswith("folded"):
            shutil.copy(path, tmp_path)
    assert "Not run." in fast_page.fill(fast_page.PAGE.read_text(), tmp_path)
    found = json.loads((fast_study.RESULTS / "folded-m4-of-conv-plain-seed0.json").read_text())
    found |= {"preset": "VIT", "of": "family-vit-plain-m4-seed0"}
    (tmp_path / "folded-VIT.json").write_text(json.dumps(found))
    text = fast_page.fill(fast_page.PAGE.read_text(), tmp_path)
    place = text.index("<!-- fast family folded -->")
    assert (
        place
        < text.index("| family-vit-plain-m4-seed0, VIT, M = 4 | 90.25 |")
        < text.index("<!-- end -->", place)
    )


def test_leaks_of_an_archive(tmp_path: Path) -> None:
    """A table in the order of the plain values betrays them all, a random one hardly any."""
    config = fast_study.rows()["embedding-m4-all-seed0"]
    plan = config.cipher().plan()
    ordered = torch.empty(plan.length, 256, 2)
    for table, becomes in zip(ordered, plan.substitutions()):
        table[becomes] = torch.arange(256.0)[:, None].expand(256, 2)
    random = torch.rand(ordered.shape, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(384, plan.length, 2)
    archive = {
        name: {
            "record": {"config": dataclasses.asdict(config)},
            "weights": {"stem.0.table": table, "stem.0.weight": weight},
        }
        for name, table in {"ordered": ordered, "random": random}.items()
    }
    torch.save(archive, tmp_path / "weights.pt")
    found = {one["run"]: one["values"] for one in leak.leaks_of_archive(tmp_path / "weights.pt")}
    assert found["ordered"]["rows_within_8"] == 1
    assert found["random"]["rows_within_8"] < 0.2


def test_what_was_not_run_is_said() -> None:
    assert "not run" in fast_page.tuning_table([])
