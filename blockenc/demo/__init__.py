"""The demo: photos encrypted, and a classifier that works only with the key, in one HTML report.

Runs on data that scikit-learn bundles (two photos, 1797 handwritten digits); nothing is downloaded. The
key is fixed and public, so that a run can be repeated.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from blockenc.cipher import Cipher
from blockenc.files import atomic_write
from blockenc.keys import Key, KeySet
from blockenc.scheme import Scheme
from blockenc.schemes import PRESETS

DEMO_KEY = b"the demo's key: fixed and public"  # 32 bytes
ALL_STEPS = ("shuffle", "np", "ffx")
# What is shown of each photo, best first: block size, steps, and what people still see, by looking at both.
SETTINGS = (
    (16, ALL_STEPS, "hides most; the border of a large even area, such as the sky, is faintly there"),
    (8, ALL_STEPS, "hides detail; the outline of a large even area shows"),
    (4, ALL_STEPS, "outlines show, and shades of the sky"),
    (2, ALL_STEPS, "the drawing shows; only small detail and the colours are hidden"),
    (8, ("np",), "outlines show, and some of what is within"),
    (8, ("shuffle",), "a coarse grey picture shows: a block keeps its values, in another order"),
    (8, ("ffx",), "the photo shows, in its colours: half of the values are as they were"),
)
DIGIT_BLOCK = 8
DIGIT_SIZE = 32  # the digits are 8 x 8, so a block covers 2 x 2 of their pixels
CHANCE = 0.1
STAGES = 5


class Digits(NamedTuple):
    """uint8 [N, 1, 32, 32] images and int64 [N] labels."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def run(output: Path, *, epochs: int = 20, wrong_keys: int = 20) -> Path:
    """Run the demo and write `output`/report.html; returns its path.

    Raises ModuleNotFoundError, saying what to install, without scikit-learn and matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the demo needs {error.name}: pip install 'blockenc[demo]'") from None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bar = Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar as progress:
        task = progress.add_task("", total=STAGES + 2 * epochs)
        started = 0

        def stage(name: str) -> None:
            nonlocal started
            started += 1
            progress.update(task, advance=1, description=name)
            console.print(f"demo, {started} of {STAGES}: {name}", highlight=False)

        stage("encrypting two photos and decrypting them again")
        bundled = photos()
        rows = [_picture_row(photo, name) for name, photo in bundled.items()]
        published = presets(next(iter(bundled.values())))
        stage("measuring the speed")
        speed = _speed(next(iter(bundled.values())))
        with torch.random.fork_rng(devices=[]):
            results, curves = _train_and_evaluate(epochs, wrong_keys, stage, lambda: progress.advance(task))
    path = output / "report.html"
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(path, _report(rows, published, results, curves, speed).encode())
    for name, accuracies in results.items():
        Console().print(f"{name:<58} {_percent(accuracies)}", highlight=False)
    return path


# --- photos -------------------------------------------------------------------------------------


def photos() -> dict[str, np.ndarray]:
    """The bundled photos, cropped to a multiple of the largest block."""
    from sklearn.datasets import load_sample_images

    data = load_sample_images()
    m = max(block_size for block_size, _, _ in SETTINGS)
    found = {}
    for name, image in zip(data.filenames, data.images):
        h, w = (size // m * m for size in image.shape[:2])
        found[Path(name).stem] = image[:h, :w].copy()
    return found


def _picture_row(photo: np.ndarray, name: str) -> list[tuple[str, np.ndarray]]:
    """Captions and pictures of one photo: as it is, encrypted in every setting, decrypted right and wrong."""
    pictures = [(f"{name}, as it is", photo)]
    for m, steps, seen in SETTINGS:
        label = "all three steps" if steps == ALL_STEPS else f"{' and '.join(steps)} alone"
        pictures.append((f"{label}, M = {m}: {seen}", _checked_encrypt(photo, Scheme(m, steps))))
    m = SETTINGS[0][0]
    encrypted = Cipher(DEMO_KEY, block_size=m).encrypt(photo)
    right = Cipher(DEMO_KEY, block_size=m).decrypt(encrypted)
    pictures.append((f"M = {m}, decrypted with the key: every pixel as it was", right))
    wrong = Cipher(bytes(32), block_size=m).decrypt(encrypted)
    if np.array_equal(wrong, photo):
        raise AssertionError("a wrong key decrypted the photo")
    pictures.append((f"M = {m}, decrypted with a wrong key: no more than before", wrong))
    return pictures


def presets(photo: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The photo under each published scheme, with its name."""
    return [(name, _checked_encrypt(photo, preset())) for name, preset in PRESETS.items()]


def _checked_encrypt(photo: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The encrypted photo, after making sure that it decrypts to the very same pixels."""
    cipher = Cipher(DEMO_KEY, scheme)
    encrypted: np.ndarray = cipher.encrypt(photo)
    if not np.array_equal(cipher.decrypt(encrypted), photo):
        raise AssertionError(f"round trip failed for {scheme}")
    return encrypted


def _speed(photo: np.ndarray) -> str:
    """A sentence: the throughput of encryption beside a copy, measured here and now."""
    x = torch.from_numpy(photo).permute(2, 0, 1).contiguous().repeat(16, 1, 1, 1)
    out, cipher = torch.empty_like(x), Cipher(DEMO_KEY, block_size=8)
    calls: dict[str, Callable[[], Any]] = {
        "copy": lambda: out.copy_(x),
        "encrypt": lambda: cipher.encrypt(x, out=out),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(11):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    rate = {name: x.numel() / statistics.median(values) / 1e9 for name, values in times.items()}
    return (
        f"A batch of 16 copies of the first photo ({x.numel() / 1e6:.0f} MB): encrypted with all three steps "
        f"at {rate['encrypt']:.2f} GB/s; Tensor.copy_ of the same batch: {rate['copy']:.2f} GB/s "
        f"(medians of 11, taken in turn, {torch.get_num_threads()} threads)."
    )


# --- digits -------------------------------------------------------------------------------------


def _digits() -> Digits:
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images)[:, None] * (255 / 16)
    # Smoothly: where every pixel of a block is alike, as after plain repetition, a shuffle changes nothing.
    large = torch.nn.functional.interpolate(small, size=(DIGIT_SIZE, DIGIT_SIZE), mode="bilinear")
    images = large.round().to(torch.uint8)
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return Digits(images[train], labels[train], images[test], labels[test])


def _model() -> torch.nn.Sequential:
    """A small network whose first layer looks at whole blocks, as the method wants it."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 48, DIGIT_BLOCK, stride=DIGIT_BLOCK),
        torch.nn.BatchNorm2d(48),
        torch.nn.ReLU(),
        torch.nn.Conv2d(48, 64, 3, padding=1),
        torch.nn.BatchNorm2d(64),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(64),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * (DIGIT_SIZE // DIGIT_BLOCK // 2) ** 2, 10),
    )


def _to_float(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def _accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(_to_float(images)).argmax(1) == labels).float().mean())


def _train(
    data: Digits, prepare: Callable[[torch.Tensor], torch.Tensor], epochs: int, tick: Callable[[], object]
) -> tuple[torch.nn.Module, list[float]]:
    """The trained model, and its accuracy on the test digits after each epoch."""
    model = _model()
    x, test = prepare(data.train_x), prepare(data.test_x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    curve = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(x)).split(64):
            loss = torch.nn.functional.cross_entropy(model(_to_float(x[index])), data.train_y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curve.append(_accuracy(model, test, data.test_y))
        tick()
    return model, curve


def _train_and_evaluate(
    epochs: int, wrong_keys: int, stage: Callable[[str], object], tick: Callable[[], object]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Accuracies by what was tried (several values where several keys were), and the training curves."""
    data = _digits()

    def cipher(key: Any) -> Cipher:
        return Cipher(key, block_size=DIGIT_BLOCK, channels=1)

    right = cipher(DEMO_KEY)
    stage(f"training on plain digits, {epochs} epochs")
    plain_model, plain_curve = _train(data, lambda x: x, epochs, tick)
    stage(f"training on encrypted digits, {epochs} epochs")
    model, curve = _train(data, right.encrypt, epochs, tick)
    stage("trying the right key, wrong keys and no key")

    def tried(key: Any) -> float:
        return _accuracy(model, cipher(key).encrypt(data.test_x), data.test_y)

    keys = KeySet(shuffle=DEMO_KEY, np=DEMO_KEY, ffx=DEMO_KEY)
    results = {
        "plain model, plain images": [_accuracy(plain_model, data.test_x, data.test_y)],
        "protected model, right key": [tried(DEMO_KEY)],
        f"protected model, {wrong_keys} wrong keys": [
            tried(Key.from_bytes(bytes([k + 1] * 32))) for k in range(wrong_keys)
        ],
    }
    for step in ("shuffle", "np", "ffx"):
        name = f"protected model, {wrong_keys} times a wrong {step} key alone"
        wrong = [keys.replace(**{step: bytes([k + 1] * 32)}) for k in range(wrong_keys)]
        results[name] = [tried(key) for key in wrong]
    results["protected model, no key (plain images)"] = [_accuracy(model, data.test_x, data.test_y)]
    results["plain model, encrypted images"] = [
        _accuracy(plain_model, right.encrypt(data.test_x), data.test_y)
    ]
    return results, {"plain": plain_curve, "encrypted": curve}


def _percent(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f} %"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


# --- the report ---------------------------------------------------------------------------------


def _image_tag(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'


def _pictures(row: list[tuple[str, np.ndarray]]) -> str:
    return f'<div class="pictures">{"".join(_picture(*picture) for picture in row)}</div>'


def _first_sentence(function: Callable[..., Any]) -> str:
    """Of a docstring, without the full stop."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).rstrip(".")


def _picture(caption: str, pixels: np.ndarray) -> str:
    """A crop of the picture at its own scale: blocks of 2 x 2 pixels must stay visible."""
    from PIL import Image

    top, left = (pixels.shape[0] - 240) // 2, (pixels.shape[1] - 320) // 2
    buffer = io.BytesIO()
    Image.fromarray(pixels[top : top + 240, left : left + 320]).save(buffer, "PNG")
    return (
        f"<figure>{_image_tag(buffer.getvalue(), caption)}<figcaption>{html.escape(caption)}"
        "</figcaption></figure>"
    )


def _plot(results: dict[str, list[float]], curves: dict[str, list[float]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained", facecolor="white")
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    names = list(results)[::-1]
    means = [100 * statistics.mean(results[name]) for name in names]
    spread = [
        [mean - 100 * min(results[name]) for name, mean in zip(names, means)],
        [100 * max(results[name]) - mean for name, mean in zip(names, means)],
    ]
    colors = ["tab:blue" if name.endswith(("plain images", "right key")) else "tab:red" for name in names]
    bars.barh(names, means, xerr=spread, color=colors, ecolor="black", capsize=3)
    bars.axvline(100 * CHANCE, color="gray", linestyle="--", linewidth=1)
    bars.text(100 * CHANCE + 1, len(names) - 0.45, "chance", color="gray", fontsize=8)
    bars.set(xlabel="accuracy, % (lines: lowest and highest)", xlim=(0, 101), ylim=(-0.6, len(names) - 0.1))
    for name, curve in curves.items():
        lines.plot(range(1, len(curve) + 1), [100 * value for value in curve], label=name)
    lines.set(xlabel="epoch", ylabel="accuracy on the test digits, %", ylim=(0, 101))
    lines.legend(title="trained on")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
/* Photos at their own scale: enlarged or reduced, their blocks would blur. */
.pictures { display: grid; grid-template-columns: repeat(auto-fill, 320px); gap: 1rem; margin-bottom: 2rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; } figcaption { font-size: 0.85rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid #8886; }
td { font-variant-numeric: tabular-nums; }
"""


def _report(
    rows: list[list[tuple[str, np.ndarray]]],
    published: list[tuple[str, np.ndarray]],
    results: dict[str, list[float]],
    curves: dict[str, list[float]],
    speed: str,
) -> str:
    import blockenc

    pictures = "".join(map(_pictures, rows))
    about = [(f"{name}: {_first_sentence(PRESETS[name])}", pixels) for name, pixels in published]
    table = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_percent(values)}</td></tr>"
        for name, values in results.items()
    )
    plot = _image_tag(
        _plot(results, curves), "Accuracy for the right key, wrong keys and no key, and training curves"
    )
    backends = ", ".join(name for name, state in blockenc.backends().items() if state == "available")
    made = (
        f"blockenc {blockenc.__version__} (backends: {backends}), torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs."
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>blockenc demo</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>blockenc demo</h1>
<p>blockenc encrypts images block by block with a secret key, so that a network trained on images encrypted
with that key works with it and hardly without. What people still see depends on the steps and on the block
size. Everything below was computed in this run, with a fixed and public demo key.</p>
<h2>Photos</h2>
<p>Crops at full scale, the setting that hides most first. M is the block size in pixels. Small blocks and
single steps let outlines through, whatever the key: a block keeps its place, and equal blocks encrypt to
equal blocks. Networks learn more easily from small blocks, and people see less of large ones, so the block
size is a choice between the two (docs/accuracy.md has what it costs). Each encryption shown was checked to
decrypt to the very same pixels.</p>
{pictures}
<h2>Published schemes</h2>
<p>The first photo under the schemes of the field, each with the block size of its paper (blockenc.schemes;
docs/schemes.md says what they do not withstand).</p>
{_pictures(about)}
<p>{html.escape(speed)}</p>
<h2>A classifier that needs the key</h2>
<p>The same small network (a layer on blocks of {DIGIT_BLOCK} x {DIGIT_BLOCK}, then convolutions), trained on
scikit-learn's handwritten digits, enlarged to {DIGIT_SIZE} x {DIGIT_SIZE}: once plain, once encrypted with
shuffle, np and ffx. Accuracy on the digits kept apart (497 of 1797); mean (lowest to highest) where several
keys were tried. Chance is {100 * CHANCE:.0f} %. Where one step alone has a wrong key the other two are right,
and easy images such as these digits may stay partly readable to the model.</p>
<table><tr><th>tried</th><th>accuracy</th></tr>{table}</table>
{plot}
<p><small>{html.escape(made)}</small></p>
</body></html>
"""
