"""The fast recipe: it learns, resumes to the bit, whitens, and encrypts what was augmented."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import blockenc
from benchmarks.accuracy import data, fast, fast_evaluate, fast_jpeg, fast_models, fast_study
from benchmarks.accuracy.fast import Augmented, Config, Run, Stopped, train
from benchmarks.accuracy.train import key_set
from tests.attack_images import pictures

CPU = torch.device("cpu")
ALL = "shuffle,np,ffx"
TINY = Config(width=8, epochs=6, batch=50, lr=3.0, small=0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stripes() -> data.Data:
    """Noisy 16 x 16 images of four classes: stripes of two directions, in two colours."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 4
    wave = torch.sin(torch.arange(16) * 0.8 + 6 * torch.rand(600, 1, generator=g))
    lines = torch.where((y % 2).view(-1, 1, 1).bool(), wave[:, None, :], wave[:, :, None])
    x = 40 * torch.randn(600, 16, 16, 3, generator=g) + 128
    x += 50 * lines[..., None] * torch.where((y < 2).view(-1, 1, 1, 1), 1.0, torch.tensor([1.0, -1.0, 0.3]))
    x = x.clamp(0, 255).to(torch.uint8)
    train, test = data.Part(x[:500], y[:500]), data.Part(x[500:], y[500:])
    return data.Data(train, test, 4, 3, 16, "stripes")


def quiet(said: str) -> None:
    pass


def stop_after(calls: int) -> Callable[[], bool]:
    """Says stop from the given call on."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if "seconds" not in key and key != "sessions"}


@pytest.mark.parametrize("stem, steps, start, least", [
    ("conv", "", "plain", 0.9),
    ("conv", ALL, "plain", 0.6),
    ("block", "shuffle,np", "protected", 0.8),
    ("embedding", ALL, "protected", 0.8),
])  # fmt: skip
def test_a_tiny_run_learns(
    stem: str, steps: str, start: str, least: float, stripes: data.Data, tmp_path: Path
) -> None:
    config = dataclasses.replace(TINY, stem=stem, steps=steps, start=start, block_size=2)
    run = train(config, tmp_path, stripes, precision="float32", say=quiet)
    result = json.loads((tmp_path / "result.json").read_text())
    assert Config(**result["config"]) == config
    assert result["losses"][-1] < 0.9 * result["losses"][0]
    one, two, six = run.right(stripes.test, run.cipher, 6)
    assert min(one, two, six) > least * len(stripes.test), "chance is a quarter"
    if steps:
        assert run.right(stripes.test, config.cipher(key_set(1)))[0] < one - 10
        assert run.right(stripes.test, None)[0] < one - 10


@pytest.mark.parametrize("config", [
    dataclasses.replace(TINY, batch=25, epochs=2, small=0.5, small_size=8, steps=ALL),
    dataclasses.replace(TINY, batch=25, epochs=1, stem="embedding", steps=ALL),
], ids=["conv", "embedding"])  # fmt: skip
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_whole_run(
    config: Config, precision: str, stripes: data.Data, tmp_path: Path
) -> None:
    """Stopped in the middle of an epoch, of ten losses and of two steps between averages."""
    if precision == "bfloat16" and not fast.native_bf16(CPU):
        pytest.skip("bfloat16 is emulated here")
    config = dataclasses.replace(config, stem_epochs=1)
    whole = train(config, tmp_path / "whole", stripes, precision=precision, say=quiet)
    for steps in (3, 13):
        with pytest.raises(Stopped):
            train(
                config,
                tmp_path / "parts",
                stripes,
                precision=precision,
                stop=stop_after(steps - 1),
                say=quiet,
            )
    other = "float32" if precision == "bfloat16" else "auto"  # the checkpoint's own is used
    parts = train(config, tmp_path / "parts", stripes, precision=other, say=quiet)
    assert (whole.record["sessions"], parts.record["sessions"]) == (1, 3)
    assert without_times(whole.record) == without_times(parts.record)
    a, b = (run.model.state_dict() for run in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len({str(t.flatten()[:9].tolist()) for t in a.values()}) > 9
    with pytest.raises(ValueError, match="another config"):
        train(dataclasses.replace(config, seed=1), tmp_path / "parts", stripes, say=quiet)


def test_the_first_layer_whitens_what_the_network_sees(stripes: data.Data) -> None:
    for steps in ("", ALL):
        config = dataclasses.replace(TINY, steps=steps)
        model = fast.build(config, stripes)
        x = config.prepare(stripes.train.x.permute(0, 3, 1, 2), config.cipher())
        seen = model.stem(x)[:, :, :-1, :-1]  # whole patches
        assert seen.shape == (500, 24, 15, 15)
        assert torch.equal(seen[:, :12], -seen[:, 12:])
        covariance = torch.cov(seen[:, :12].transpose(0, 1).flatten(1))
        torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.05)
        if steps:
            plain = model.stem(config.prepare(stripes.train.x.permute(0, 3, 1, 2), None))[:, :12, :-1, :-1]
            covariance = torch.cov(plain.transpose(0, 1).flatten(1))
            assert (covariance - torch.eye(12)).abs().max() > 0.3, "made for plain images"
        assert not model.stem.weight.requires_grad


@pytest.mark.parametrize("kind", ["block", "embedding"])
def test_block_stems_start_as_the_convolution_of_each_block(kind: str, stripes: data.Data) -> None:
    x = stripes.test.x[:5].permute(0, 3, 1, 2)
    blocks = functional.unfold(x.float(), 4, stride=4).transpose(1, 2).reshape(-1, 3, 4, 4).to(torch.uint8)
    want = fast.build(TINY, stripes).stem(TINY.prepare(blocks, None))
    want = functional.fold(want.reshape(5, 16, -1).transpose(1, 2), 16, 4, stride=4)
    config = dataclasses.replace(TINY, stem=kind, block_size=4)
    seen = fast.build(config, stripes).stem(config.prepare(x, None))
    assert seen.shape == want.shape
    if kind == "embedding":  # of differently scaled values, and so of the other sign where that was chosen
        want, seen = want[:, :12].abs(), seen[:, :12].abs()
    torch.testing.assert_close(seen, want, rtol=0.02, atol=0.02 if kind == "embedding" else 1e-4)


@pytest.mark.parametrize("kind", fast_models.STEMS)
def test_a_plane_of_one_colour_has_no_edges(kind: str, stripes: data.Data) -> None:
    """Neither at the edge of the image nor at those of blocks: zeros there would be steps of brightness."""
    config = dataclasses.replace(TINY, stem=kind, block_size=4)
    x = torch.tensor([240, 90, 20], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    seen = fast.build(config, stripes).stem(config.prepare(x, None))
    torch.testing.assert_close(seen, seen[:, :, :1, :1].expand_as(seen), rtol=0, atol=1e-4)
    assert seen.abs().max() > 0.5


def test_the_stem_is_computed_in_float32(stripes: data.Data) -> None:
    run = Run(TINY, stripes, CPU, bf16=True)
    seen: list[torch.Tensor] = []
    run.model.stem.register_forward_hook(lambda _, inputs, output: seen.append(output))
    run.model.body.register_forward_hook(lambda _, inputs, output: seen.append(output))
    x = TINY.prepare(stripes.test.x[:9].permute(0, 3, 1, 2), None)
    with run.autocast():
        run.model(x)
    assert torch.equal(seen[0], run.model.stem(x))
    assert seen[1].dtype == torch.bfloat16, "the rest is not"


def test_the_average_moves_ten_times_an_epoch(stripes: data.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    monkeypatch.setattr(Run, "_look_ahead", lambda run: moved.append(run.step))
    run = Run(dataclasses.replace(TINY, batch=12, epochs=0.6), stripes, CPU, bf16=False)
    while run.step < run.total:
        run.train_step()
    assert run.stream.steps == 41
    assert moved == [4, 8, 12, 16, 20, 24, 25], "every four steps, and in the end"


@pytest.mark.parametrize("stem, steps", [("block", "shuffle,np"), ("embedding", ALL)])
def test_a_protected_start_is_the_plain_start(stem: str, steps: str, stripes: data.Data) -> None:
    x = stripes.test.x[:9].permute(0, 3, 1, 2)
    plain = dataclasses.replace(TINY, stem=stem)
    protected = dataclasses.replace(plain, steps=steps, start="protected")
    want = fast.build(plain, stripes)(plain.prepare(x, None))
    seen = fast.build(protected, stripes)(protected.prepare(x, protected.cipher()))
    torch.testing.assert_close(seen, want, rtol=1e-3, atol=1e-3)


def test_encrypted_rows_see_the_encryption_of_the_augmented_image(
    stripes: data.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, steps=ALL)
    run = Run(config, stripes, CPU, bf16=False)
    seen: list[torch.Tensor] = []
    run.model.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    calls: list[torch.Tensor] = []
    encrypt = blockenc.Cipher.encrypt

    def recorded(self: blockenc.Cipher, x: torch.Tensor, **options: Any) -> Any:
        calls.append(x)
        return encrypt(self, x, **options)

    monkeypatch.setattr(blockenc.Cipher, "encrypt", recorded)
    run.train_step()
    augmented, _ = Augmented(stripes.train, config, CPU).batch(0)
    assert len(calls) == 1, "the batch is encrypted in one call"
    assert torch.equal(calls[0], augmented)
    assert augmented.dtype == torch.uint8
    cipher = config.cipher()
    assert cipher is not None
    norm = {"mean": (fast.MEAN,) * 3, "std": (fast.STD,) * 3}
    assert torch.equal(seen[0], encrypt(cipher, augmented, dtype=torch.float32, **norm))
    assert not torch.equal(
        cipher.decrypt(encrypt(cipher, augmented)), stripes.train.x[:50].permute(0, 3, 1, 2)
    )


def test_views_are_made_of_plain_images(stripes: data.Data) -> None:
    config = dataclasses.replace(TINY, steps=ALL)
    run = Run(config, stripes, CPU, bf16=False)
    x = stripes.test.x[:4].permute(0, 3, 1, 2)
    plain = list(run.views(x.flip(3), run.cipher, 6))
    mirrored = list(run.views(x, run.cipher, 6))
    assert len(mirrored) == 6
    torch.testing.assert_close(plain[0], mirrored[1])
    torch.testing.assert_close(plain[1], mirrored[0])
    assert len({str(z) for z in mirrored}) == 6


def test_crops_are_mirrored_at_the_edge_and_flips_alternate() -> None:
    n, size, pad = 64, 6, 2
    x = torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8)
    stream = Augmented(data.Part(x, torch.arange(n)), dataclasses.replace(TINY, batch=16, pad=pad), CPU)
    padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2).float(), (pad,) * 4, mode="reflect").to(
        torch.uint8
    )
    seen: list[dict[int, tuple[bool, int, int]]] = []
    for epoch in range(3):
        places: dict[int, tuple[bool, int, int]] = {}
        for step in range(epoch * 4, epoch * 4 + 4):
            for image, label in zip(*stream.batch(step)):
                for flip in (False, True):
                    whole = padded[label].flip(2) if flip else padded[label]
                    for i in range(2 * pad + 1):
                        for j in range(2 * pad + 1):
                            if torch.equal(whole[:, i : i + size, j : j + size], image):
                                places[int(label)] = (flip, i, j)
        assert len(places) == n, "an image is no crop, or was left out"
        seen.append(places)
    first, second, third = ([places[k][0] for k in range(n)] for places in seen)
    assert 16 < sum(first) < 48
    assert second == [not flip for flip in first]
    assert third == first
    assert len({places[k][1:] for places in seen for k in range(n)}) == 25
    assert torch.equal(stream.batch(5)[0], stream.batch(5)[0]), "a batch depends on its number alone"


def test_only_the_bias_of_the_first_layer_learns_and_only_at_first(stripes: data.Data) -> None:
    run = Run(dataclasses.replace(TINY, stem_epochs=0.2), stripes, CPU, bf16=False)
    learned = []
    for _ in range(4):
        run.train_step()
        learned.append(run.model.stem.bias.grad is not None)
        assert run.model.stem.weight.grad is None
    assert learned == [True, True, False, False]


def test_operations_are_counted(stripes: data.Data) -> None:
    config = dataclasses.replace(TINY, width=8, epochs=1, stem_epochs=0)
    run = Run(config, stripes, CPU, bf16=False)
    pixels = [256, 64, 64, 16, 16, 4]
    channels = [(24, 8), (8, 8), (8, 32), (32, 32), (32, 32), (32, 32)]
    products = [9 * a * b * n for (a, b), n in zip(channels, pixels)] + [4 * 32]
    stem = 24 * 12 * 256
    # Forward, and gradients of inputs and weights; none of the inputs of the first layer that learns.
    images = 2 * (stem + 3 * sum(products) - products[0])
    assert run.record["flops"] == images * 500
    small = dataclasses.replace(config, small=0.5, small_size=8)
    with pytest.raises(ValueError, match="--small-size: expected a multiple of the block size 4, got 6"):
        Run(dataclasses.replace(small, small_size=6), stripes, CPU, bf16=False)
    assert 0.6 < Run(small, stripes, CPU, bf16=False).record["flops"] / run.record["flops"] < 0.65


def test_the_queue_stops_and_goes_on(
    stripes: data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"plain": dataclasses.replace(TINY, epochs=1),
              "all": dataclasses.replace(TINY, epochs=1, steps=ALL)}  # fmt: skip
    said: list[str] = []
    places = (tmp_path / "runs", tmp_path / "results")
    options = {"keys": 10, "images": 50, "precision": "float32", "say": said.append}
    done: list[list[str]] = []
    for _ in range(20):
        complete = fast_study.run_rows(chosen, *places, stripes, stop=stop_after(8), **options)
        done.append(sorted(path.stem for path in places[1].iterdir()))
        if complete:
            break
    assert complete
    assert done[0] == []
    assert ["plain"] in done
    assert done[-1] == ["all", "plain"]
    assert any("stopped at step 8 of 10" in word for word in said)
    plain, encrypted = (json.loads((places[1] / f"{name}.json").read_text()) for name in chosen)
    assert plain["sessions"] == 2
    assert plain["evaluation"]["plain"].keys() == {"one_view", "mirrored", "six_views"}
    assert [met["number"] for met in plain["evaluation"]["on_encrypted_images"]] == [1] * 5
    scores = encrypted["evaluation"]
    assert len(scores["wrong_keys"]["accuracies"]) == scores["wrong_keys"]["number"] == 10
    assert set(scores["one_wrong_member"]) == {"shuffle", "np", "ffx"}
    assert {"plain_images", "right_key"} < set(scores)
    for key in ("torch", "machine", "cpu", "date", "threads"):
        assert plain["environment"][key]
    assert plain["flops"] > 1e6
    assert plain["seconds"] > 0
    assert "--only plain" in plain["command"]

    # By its own command, too; other images are measured anew.
    def loaded(*_: Any) -> data.Data:
        return stripes

    monkeypatch.setattr(data, "load", loaded)
    argv = ["x", str(places[0] / "all"), "--data", ".", "--device", "cpu", "--keys", "10", "--images"]
    for images, same in (("50", True), ("30", False)):
        monkeypatch.setattr(sys, "argv", [*argv, images])
        fast_evaluate.main()
        alone = json.loads((places[0] / "all" / "evaluation.json").read_text())["evaluation"]
        assert (alone == scores) is same
        assert alone["right_key"] == scores["right_key"]

    # The same as in one go, and nothing is run twice.
    whole = tmp_path / "whole"
    assert fast_study.run_rows(chosen, tmp_path / "other", whole, stripes, **options)
    again = json.loads((whole / "all.json").read_text())
    assert without_times(again) == without_times(encrypted)
    said.clear()
    assert fast_study.run_rows(chosen, *places, stripes, **options)
    assert said == []


def test_rows_and_their_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    rows = fast_study.rows()
    assert list(rows)[:6] == ["conv-plain-seed0", "conv-m4-all-seed0", "conv-m2-all-seed0",
                              *(f"conv-m4-{step}-seed0" for step in ("shuffle", "np", "ffx"))]  # fmt: skip
    assert len({str(config) for config in rows.values()}) == len(rows)
    for config in rows.values():
        config.cipher()
    for name, right in (("conv-plain-seed0", 0.94), ("conv-m4-np-seed0", 0.92), ("conv-m4-np-seed1", 0.91)):
        views = dict.fromkeys(("one_view", "mirrored", "six_views"), right)
        scores: dict[str, Any] = {"plain": views}
        if rows[name].steps:
            wrong = {"accuracies": [0.1, 0.2]}
            scores = {"right_key": views, "wrong_keys": wrong, "plain_images": 0.3}
        found = {"config": dataclasses.asdict(rows[name]), "evaluation": scores}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setattr(sys, "argv", ["x", "--table", "--results", str(tmp_path)])
    fast_study.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "| conv-m4-np | 2 | 91.50 | 91.50 | 91.50 | 2.50 | 2.04 | 15.0 (10.0 to 20.0) | 30.0 |"
    )
    monkeypatch.setattr(sys, "argv", ["x", "--list", "--results", str(tmp_path)])
    fast_study.main()
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "done conv-plain-seed0"
    assert len(listed) == len(rows)


def test_one_more_compression(stripes: data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = stripes.test.x
    moved, same = fast_jpeg.MOVED, fast_jpeg.SAME
    once = fast_jpeg.compressed(x, 75, same, "4:2:0")
    again = {at: fast_jpeg.psnr(once, fast_jpeg.compressed(once, 75, at, "4:2:0")) for at in (same, moved)}
    assert again[same] > again[moved] + 5, "on its grid a JPEG stays as it is"
    assert 15 < fast_jpeg.psnr(x, once) < fast_jpeg.psnr(x, fast_jpeg.compressed(x, 95, moved, "4:4:4"))

    def loaded(*_: Any) -> data.Data:
        return stripes

    train(TINY, tmp_path, stripes, precision="float32", say=quiet)
    monkeypatch.setattr(data, "load", loaded)
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--data", ".", "--device", "cpu"])
    fast_jpeg.main()
    rows = json.loads((tmp_path / "jpeg.json").read_text())["rows"]
    assert len(rows) == 1 + len(fast_jpeg.SETTINGS)
    assert rows[0]["accuracy"] > 0.9
    assert 0.25 < rows[-1]["accuracy"] <= 1

    monkeypatch.setattr(fast_jpeg, "Config", lambda: TINY)
    again = [*sys.argv[:1], str(tmp_path / "again"), *sys.argv[2:], "--quality", "75"]
    monkeypatch.setattr(sys, "argv", again)
    fast_jpeg.main()
    found = json.loads((tmp_path / "again" / "jpeg.json").read_text())
    assert found["quality"] == 75
    assert found["one_view"] > 0.9
    assert "quality 75" in found["environment"]["data"]
    (tmp_path / "again" / "jpeg.json").replace(tmp_path / "jpeg-quality75.json")
    table = fast_jpeg.table(tmp_path).splitlines()
    assert len(table) == 2 + len(rows) + 1
    assert f"| as they are | as they are |  | {100 * rows[0]['accuracy']:.2f} |" in table[2]
    assert table[-1].startswith(
        f"| quality 75, moved | quality 75, moved |  | {100 * found['one_view']:.2f} |"
    )
    monkeypatch.setattr(sys, "argv", [*again[:-1], "96"])
    with pytest.raises(SystemExit, match="2"):
        fast_jpeg.main()


def test_all_images_are_compressed_again(stripes: data.Data) -> None:
    found = fast_jpeg.again(stripes, 50)
    for old, new in ((stripes.train, found.train), (stripes.test, found.test)):
        assert torch.equal(new.x, fast_jpeg.compressed(old.x, 50, fast_jpeg.MOVED, "4:2:0"))
        assert not torch.equal(new.x, old.x)
        assert (new.y is old.y, new.pad, new.flip) == (True, old.pad, old.flip)


def test_signals_stop_a_run() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop = fast.stop_on_signals()
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
            signal.signal(number, handler)


def test_the_schedule_is_a_triangle() -> None:
    config = Config(batch=1024, lr=2.0)
    parts = [config.lr_at(n / 100) for n in range(101)]
    assert parts[0] == pytest.approx(0.4)
    assert max(parts) == parts[23] == pytest.approx(2.0)
    assert parts[100] == pytest.approx(0.14)
    assert fast_models.whitening_width(3) == 24


def test_the_scripts_explain_themselves(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for script in (fast, fast_evaluate, fast_jpeg, fast_study):
        monkeypatch.setattr(sys, "argv", ["x", "--help"])
        with pytest.raises(SystemExit, match="0"):
            script.main()
        assert f"python -m {script.__name__}" in capsys.readouterr().out


def test_a_recovered_start_takes_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the attack finds of the key is folded into the stem."""
    pytest.importorskip("scipy")
    pytest.importorskip("sklearn")
    x = pictures(300, 32)
    found = data.Data(data.Part(x.permute(0, 2, 3, 1), torch.zeros(300)), None, 4, 3, 32, "pictures")  # type: ignore[arg-type]
    cipher = TINY.cipher()
    assert cipher is None
    config = dataclasses.replace(TINY, stem="embedding", steps=ALL, start="recovered")
    cipher = config.cipher()
    assert cipher is not None
    recovered = fast.recovered(cipher, found)
    # Which channel is which, these pictures do not tell.
    wrong = recovered.decrypt(cipher.encrypt(x)).float().mean(1) - x.float().mean(1)
    assert wrong.abs().mean() < 10, "a random key is wrong by 60"
    monkeypatch.setattr(fast, "recovered", lambda *_: cipher)
    protected = dataclasses.replace(config, start="protected")
    a, b = (fast.build(c, found).state_dict() for c in (config, protected))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_teacher_sees_plain_images(stripes: data.Data, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, steps=ALL, block_size=2, distilled=0.5, epochs=1)
    with pytest.raises(ValueError, match="--teacher: expected one where --distilled is not 0"):
        train(config, tmp_path / "none", stripes, precision="float32", say=quiet)
    seen = []

    class Teacher(torch.nn.Module):
        def __init__(self, right: bool) -> None:
            super().__init__()
            self.right = right

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.eye(4)[0].expand(len(x), 4) * (20 if self.right else -20)

    runs = [
        train(config, tmp_path / str(right), stripes, precision="float32", say=quiet, teacher=Teacher(right))
        for right in (True, False)
    ]
    plain = (runs[0].stream.batch(0)[0].float() / 255 - fast.MEAN) / fast.STD
    assert torch.equal(seen[0], plain)
    answers = [
        torch.cat([next(run.views(stripes.test.x.permute(0, 3, 1, 2), run.cipher, 1))]) for run in runs
    ]
    share = [float((z.argmax(1) == 0).float().mean()) for z in answers]
    assert share[0] > share[1] + 0.3, "class 0 is what one of the teachers says, and the other denies"


def test_a_curriculum_adds_step_after_step(stripes: data.Data) -> None:
    config = dataclasses.replace(TINY, steps=ALL, block_size=2, curriculum=0.6)
    run = Run(config, stripes, CPU, bf16=False)
    run.total = 100
    kinds = [() if (c := run.cipher_at(step)) is None else c.scheme.kinds for step in range(100)]
    assert (
        kinds == [()] * 20 + [("shuffle",)] * 20 + [("shuffle", "np")] * 20 + [("shuffle", "np", "ffx")] * 40
    )
    sources = [c.plan().source.tolist() for c in run.ciphers if c is not None]
    assert sources[0] == sources[1] == sources[2], "the key stays the same"
    whole = Run(dataclasses.replace(config, curriculum=0.0), stripes, CPU, bf16=False)
    assert whole.cipher_at(0) is whole.cipher
