"""The harness runs every attack that applies, within its time; docs/attacks.md shows what was recorded."""

from __future__ import annotations

import argparse
import copy
import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import blockenc
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import fast
from benchmarks.attacks import __main__ as harness
from benchmarks.attacks import data, page
from blockenc import Cipher, Key, KeySet, Scheme, attacks
from blockenc.attacks import learned
from blockenc.attacks.on_models import MODEL_ATTACKS, Model
from blockenc.cli import app as cli
from blockenc.schemes import ETC, PE, PRESETS
from blockenc.steps import Np, Scramble, Shuffle
from tests import cifar
from tests.attack_images import pictures

KEY = Key(bytes(range(32)))
NAMES = [attack.name for attack in attacks.ATTACKS]
MOST_BYTES = 300_000


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "STEPS", 2)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_attack_runs_or_says_why_not(name: str) -> None:
    found = attacks.judge(PRESETS[name](), pictures(4), key=KEY)
    assert sorted([*found.results, *found.left_out]) == sorted(NAMES)
    assert all(found.left_out.values())
    for attack in attacks.ATTACKS:
        if attack.name in found.results:
            result = found.results[attack.name]
            assert attack.score in result.scores
            assert attack.count in result.used
            assert json.dumps(result.to_dict(), allow_nan=False)
    assert found.results["chosen plaintext"].scores["share"] == 1
    assert str(found).startswith("key space: ")
    assert "np correlations: " in str(found)


def test_keys_for_each_image_and_decimals_leave_attacks_out() -> None:
    found = attacks.judge(PE(), pictures(4), per_image=True)
    assert {"chosen plaintext", "known plaintext", "np correlations"} <= set(found.left_out)
    assert found.results["feature reconstruction"].scores["SSIM of outlines"] == pytest.approx(1)
    decimal = attacks.judge(Scheme(ffx="decimal"), pictures(4))
    assert decimal.results["chosen plaintext"].scores["share"] == 1
    assert decimal.left_out["jigsaw"] == "values beyond bytes"


def test_time_and_what_is_done_are_kept_to() -> None:
    none = attacks.judge(ETC(), pictures(2), minutes=0)
    assert not none.results
    assert none.left_out["jigsaw"] == "no time left"
    earlier = attacks.Result("none", {"SSIM": 7.0}, {"images": 1.0})
    seen: list[str] = []
    found = attacks.judge(
        ETC(),
        pictures(2),
        attacks=attacks.ATTACKS[:2],
        done={"none": earlier},
        after_each=lambda result, situation: seen.append(result.attack),
    )
    assert found.results["none"] is earlier
    assert seen == ["statistics"]


def test_a_model_is_judged_by_its_answers() -> None:
    """One that knows eight images by their encrypted values; and one whose answers are those values."""
    scheme, x, y = Scheme(2, ["np"]), pictures(8, 32), torch.arange(8)
    key = KeySet(np=KEY)
    centres = Cipher(key, scheme).encrypt(x).float().flatten(1)

    def nearest(images: torch.Tensor) -> torch.Tensor:
        return -((images.float().flatten(1)[:, None] - centres) ** 2).mean(2) / 500

    model = Model(nearest, (x, y), (x, y), key)
    assert repr(model) == "Model()"
    found = attacks.judge(scheme, x, attacks=MODEL_ATTACKS, more={"model": model})
    scores = {name: result.scores for name, result in found.results.items()}
    assert scores["right key"]["accuracy"] == 1
    assert scores["random keys"]["mean accuracy"] < 0.9
    assert scores["key search"]["key share"] == 1
    assert found.left_out == {"seriation": "no table, or more than one"}

    whole = Scheme(2, ["np", "ffx"])
    key = KeySet(np=KEY, ffx=KEY)
    plain = Cipher(key, whole)
    model = Model(lambda v: plain.decrypt(v).float().flatten(1), (x, y), (x, y), key)
    found = attacks.judge(whole, x, attacks=MODEL_ATTACKS[3:], more={"model": model})
    assert found.results["seriation"].scores["rank correlation"] > 0.99
    if "slopes" in found.results:
        assert found.results["slopes"].scores["ffx share"] == 1
    else:
        assert "SciPy" in found.left_out["slopes"]
    assert set(attacks.judge(whole, x, attacks=MODEL_ATTACKS).left_out.values()) == {"no model"}
    assert set(attacks.judge(ETC(), x, attacks=MODEL_ATTACKS, more={"model": model}).left_out.values()) == {
        "a scheme that searches do not know"
    }


def test_an_attack_of_ones_own_and_images_that_do_not_fit() -> None:
    mine = attacks.Attack(
        "mine",
        "all",
        "x",
        None,
        "images",
        lambda s: "" if s.more else "needs more",
        lambda s: attacks.Result("mine", {"x": s.more["x"]}, {"images": 0.0}),
    )
    x = pictures(2, 32)
    assert attacks.judge(Scheme(), x, attacks=(mine,), more={"x": 3.0}).results["mine"].scores == {"x": 3.0}
    assert attacks.judge(Scheme(), x, attacks=(mine,)).left_out == {"mine": "needs more"}
    assert not attacks.judge(Scheme(), x.permute(0, 2, 3, 1).numpy(), attacks=()).results
    for wrong in (x[:1], x[:, :2], x.float()):
        with pytest.raises(ValueError, match="images: expected at least 2 of uint8 and 3 channels"):
            attacks.judge(Scheme(), wrong)


def test_images_that_are_recovered_are_judged_by_a_network_too() -> None:
    def features(x: torch.Tensor) -> list[torch.Tensor]:
        return [x.float() - 128, x.float()[..., ::2, ::2] - 128]

    scheme, x = Scheme(2, ["np"]), pictures(8, 32)
    wanted = tuple(a for a in attacks.ATTACKS if a.name in ("none", "np correlations", "statistics"))
    found = attacks.judge(scheme, x, attacks=wanted, features=features).results
    distances = {name: result.scores.get("perceptual distance") for name, result in found.items()}
    assert found["np correlations"].scores["mask"] == 1
    assert distances["np correlations"] == 0
    assert distances["statistics"] is None
    key = Key(bytes(32))
    y, original = Cipher(key, scheme).encrypt(x[4:]), x[4:]
    none = attacks.judge(scheme, x, attacks=wanted[:1], features=features, key=key).results["none"]
    apart = 0.0
    for ours, theirs in zip(features(y), features(original)):
        a, b = (v / v.pow(2).sum(1, keepdim=True).sqrt() for v in (ours, theirs))
        apart += float((a - b).pow(2).sum(1).mean())
    assert none.scores["perceptual distance"] == pytest.approx(apart, rel=1e-5)
    assert "perceptual distance" not in attacks.judge(scheme, x, attacks=wanted[:1]).results["none"].scores


def test_the_core_does_not_import_attacks() -> None:
    package = Path(blockenc.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent.name != "attacks":
            assert not re.search(r"^\s*(from|import) blockenc\.attacks", path.read_text(), re.MULTILINE), path


# --- the program and its page -------------------------------------------------------------------


def options(tmp_path: Path, **changed: object) -> argparse.Namespace:
    given = {
        "scheme": "NP",
        "features": None,
        "per_image": False,
        "minutes": None,
        "data": None,
        "size": 64,
        "images": 6,
    }
    given.update(free_photo=False, model=None)
    return argparse.Namespace(**{**given, "results": tmp_path, "pictures": tmp_path / "p", **changed})


def test_a_run_is_recorded_resumed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    file = harness.run(options(tmp_path, minutes=0))
    first = json.loads(file.read_text())
    assert (first["attacks"], first["key space bits"]) == ({}, 44.9)
    assert set(first["left out"].values()) >= {"no time left"}
    whole = json.loads(harness.run(options(tmp_path)).read_text())
    assert set(whole["attacks"]) | set(whole["left out"]) == set(NAMES)
    monkeypatch.setattr(harness, "save", lambda *_: pytest.fail("an attack ran again"))
    assert json.loads(harness.run(options(tmp_path)).read_text())["attacks"] == whole["attacks"]
    monkeypatch.undo()

    scheme = tmp_path / "own.scheme"
    scheme.write_text(Scheme(8, ["np", Scramble(period="image")]).to_json())
    harness.run(options(tmp_path, scheme=str(scheme), minutes=0))
    found = page.load(tmp_path)
    assert [result["name"] for result in found] == ["NP", "own"]
    sheets = page.sheets(found, tmp_path / "p")
    assert {"encrypted", "feature reconstruction", "np correlations"} <= set(sheets)
    assert sheets["encrypted"].width == 2 * (page.PANEL + page.GAP)
    with pytest.raises(ValueError, match="--scheme: expected one of SHF"):
        harness.scheme_of("none such")


def test_a_model_is_judged_from_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar.write(tmp_path)
    found = accuracy_data.load("cifar10", tmp_path)
    for name, steps, epochs in (("own", "np,ffx", 5.0), ("plain", "", 0.25)):
        config = fast.Config(steps=steps, width=8, epochs=epochs, batch=50, small=0.0)
        fast.train(config, tmp_path / name, found, precision="float32", say=lambda _: None)
    monkeypatch.setattr(harness, "ATTACKS", ())  # those on images have tests of their own
    monkeypatch.setattr(harness, "LABELLED", 20)
    monkeypatch.setattr(harness, "TESTED", 40)
    given = ["--data", str(tmp_path), "--size", "32", "--minutes", "0.05", "--results", str(tmp_path / "r")]

    def run(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["attacks", *more, *given])
        harness.main()
        return capsys.readouterr().out

    file = tmp_path / "r" / "own.json"
    assert run("--model", str(tmp_path / "own")).endswith(f"{file}\n")
    told = json.loads(file.read_text())
    assert told["scheme"]["steps"] == ["np", "ffx"]
    assert set(told["attacks"]) | set(told["left out"]) == {attack.name for attack in MODEL_ATTACKS}
    assert told["attacks"]["right key"]["used"] == {"images": 40}
    assert told["attacks"]["right key"]["scores"]["accuracy"] > 0.3
    assert "distance of another image" not in told
    monkeypatch.setattr(harness, "ATTACKS", attacks.ATTACKS[:1])
    run("--scheme", "NP", "--features", str(tmp_path / "plain"))
    told = json.loads((tmp_path / "r" / "NP.json").read_text())
    assert 0 < told["attacks"]["none"]["scores"]["perceptual distance"] < 4
    assert "| NP | " in page.distances_table([told])
    with pytest.raises(ValueError, match="--features: expected a fastnet that was trained on plain images"):
        run("--scheme", "NP", "--features", str(tmp_path / "own"))
    with pytest.raises(ValueError, match="--model: expected a model that was trained on encrypted images"):
        run("--model", str(tmp_path / "plain"))
    with pytest.raises(SystemExit):
        run("--model", str(tmp_path / "own"), "--scheme", "NP")


def test_photos_of_a_folder_are_squares(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from PIL import Image

    for n, size in enumerate([(40, 64), (64, 40)]):
        Image.new("RGB", size, (n, 7, 9)).save(tmp_path / f"{n}.png")
    images, note = data.load(tmp_path, 32, 96)
    assert images.shape == (2, 3, 32, 32)
    assert images[:, 0, 0, 0].tolist() == [0, 1]
    assert "2 photos" in note
    four = torch.cat([images, images])
    free = data.with_free_photo(four)
    assert torch.equal(free[[0, 1, 3]], four[[0, 1, 3]])
    assert free[2].float().std() > 10
    with pytest.raises(ValueError, match="--data: expected at least 2 pictures"):
        data.load(tmp_path, 32, 1)


def test_the_page_shows_the_recorded_results() -> None:
    results = page.load(page.RESULTS)
    text = page.PAGE.read_text()
    assert page.fill(text, results, page.PAGE.parent) == text, "run python -m benchmarks.attacks.page"
    for size in (224, page.SMALL):
        assert [r["name"] for r in results if r["size"] == size and not r["per image"]] == list(page.ORDER)
    for result in results:
        assert set(result["attacks"]) | set(result["left out"]) == set(NAMES), result["name"]
        assert "no time left" not in result["left out"].values()
    record = json.loads((page.ACCURACIES / "family-conv-PE-m4-seed0.json").read_text())["evaluation"]
    assert page.accuracies("PE") == tuple(
        f"{100 * n:.1f}" for n in (record["right_key"]["one_view"], record["wrong_keys"]["mean"])
    )
    assert "–" not in {cell for name in page.TRAINED for cell in page.accuracies(name)}
    assert page.accuracies("own") == ("–", "–")
    changed = copy.deepcopy(results)
    changed[0]["attacks"]["none"]["scores"]["SSIM"] = 9
    assert page.fill(text, changed, page.PAGE.parent) != text
    sizes = [path.stat().st_size for path in page.PAGE.parent.glob("attacks-*.png")]
    assert sizes
    assert sum(sizes) < MOST_BYTES


def test_blocks() -> None:
    namespace: dict = {"__name__": "docs", "photos": pictures(4)}
    blocks = re.findall(r"```python\n(.*?)```", page.PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/attacks.md", "exec"), namespace)


# --- warnings -----------------------------------------------------------------------------------

WARNINGS = {
    "np alone": Scheme(4, ["np"]),
    "ffx alone": Scheme(4, ["ffx"]),
    "shuffle alone": Scheme(4, ["shuffle"]),
    "block size 1": Scheme(1, ["np", "shuffle"]),
    "block size 2": Scheme(2),
    "blocks stay whole": ETC(),
    "every block is treated alike": Scheme(),
    "equal blocks": Scheme(),
    "equal blocks of an image": PRESETS["VIT"](),
    "key space of 45 bits": Scheme(4, ["np"]),
    "scramble": Scheme(4, [Scramble(), "np"]),
}


@pytest.mark.parametrize("start", list(WARNINGS))
def test_weak_choices_are_told_with_their_experiment(start: str) -> None:
    (found,) = (warning for warning in WARNINGS[start].warnings() if warning.startswith(start))
    place, _, heading = re.search(r"\((docs/\S+\.md)(, )?([^)]*)\)", found).groups()  # type: ignore[union-attr]
    text = (Path(__file__).parents[1] / place).read_text().lower()
    assert heading.lower() in text


def test_what_is_not_weak_is_not_warned_of() -> None:
    strong = Scheme(4, [Shuffle(period="image"), Np(period="image"), Scramble(period="image")])
    assert strong.warnings() == strong.warnings(32, 32) == []
    assert PRESETS["ELE"]().warnings(224, 224) == []
    assert [w[:9] for w in PE().warnings(4, 4)] == ["np alone:", "key space"]
    assert PE().warnings() == PE().warnings(224, 224)
    assert not any(w.startswith("np alone") for w in Scheme(4, [Np(cells="nibble")]).warnings())
    for other in (ETC(), PE(), Scheme(4, [Shuffle(cells="nibble")]), Scheme(4, ffx="decimal")):
        assert not any("treated alike: encrypted" in w for w in other.warnings())


def test_inspect_shows_key_space_and_warnings(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        result = CliRunner().invoke(cli.app, ["inspect", *args])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    shown = run("--scheme", "NP")
    assert "45 bits" in shown
    assert "np alone" in shown
    assert "2,501 bits in images of 224 x 224" in run("--scheme", "ETC")
    file = tmp_path / "own.json"
    file.write_text(Scheme(10, ["np", Scramble(period="image")]).to_json())
    assert "bits in images of 230 x 230" in run("--scheme", str(file))
    for args, says in (
        (("--scheme", "no"), "--scheme: expected one of SHF"),
        (("x", "--scheme", "NP"), "without"),
    ):
        result = CliRunner().invoke(cli.app, ["inspect", *args])
        assert result.exit_code != 0
        assert says in str(result.exception) + result.output
