"""The tables and pictures of docs/attacks.md, out of the recorded results: python -m benchmarks.attacks.page

Between `<!-- NAME -->` and `<!-- end -->` the page is written anew; the text around is left alone. The
pictures are made of what `python -m benchmarks.attacks --pictures DIR` left there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks import pages
from benchmarks.accuracy import fast_family
from benchmarks.attacks import encrypted_alone
from benchmarks.attacks.__main__ import RESULTS
from blockenc.attacks import ATTACKS
from blockenc.schemes import PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"
STATISTICS = ("statistics", "sensitivity")
COUNTED = ("chosen plaintext", "known plaintext", "np correlations")
ACCURACIES = Path(__file__).parents[1] / "accuracy" / "results" / "fast"
# Rows of the accuracy study; those of other presets are called as the presets.
TRAINED = {"SHF": "conv-m4-shuffle", "NP": "conv-m4-np", "FFX": "conv-m4-ffx", "all-three": "conv-m4-all"}
NOTHING: dict[str, Any] = {"scores": {}}
SMALL = 32  # pixels, of CIFAR's images
PANEL, LABEL, GAP = 72, 14, 4  # pixels
COLOURS = 64
ORDER = (*list(PRESETS)[:3], "all-three", *list(PRESETS)[3:])


def load(folder: Path) -> list[dict[str, Any]]:
    """The results, the presets in their order first."""
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]
    return sorted(found, key=lambda result: _place(result["name"]))


def _place(name: str) -> tuple[bool, int, str]:
    base = name.removesuffix("-per-image")
    return name != base, ORDER.index(base) if base in ORDER else len(ORDER), name


def shown(name: str) -> str:
    return name.replace("-per-image", ", a key for each image").replace("all-three", "all three, M = 4")


def accuracies(name: str) -> tuple[str, str]:
    """With the right key and wrong ones, of a network trained under the scheme with blocks of 4 pixels."""
    row = TRAINED.get(name, f"{fast_family.PREFIX}conv-{name}-m4")
    trained = [json.loads(path.read_text()) for path in sorted(ACCURACIES.glob(f"{row}-seed*.json"))]
    if not trained:
        return "–", "–"
    wrong = statistics.fmean(found["evaluation"]["wrong_keys"]["mean"] for found in trained)
    return f"{fast_family.accuracy(trained):.1f}", f"{100 * wrong:.1f}"


def attacks_table(results: list[dict[str, Any]]) -> str:
    """A row a scheme, a column an attack: the score that stands for it, and what it used."""
    columns = [attack for attack in ATTACKS if attack.name not in STATISTICS]
    head = [
        "scheme",
        "accuracy, %",
        "wrong keys, %",
        "key space, bits",
        *(f"{a.name}: {a.score}" for a in columns),
    ]
    rows = []
    for result in results:
        cells = [shown(result["name"]), *accuracies(result["name"]), f"{result['key space bits']:,.0f}"]
        for attack in columns:
            found = result["attacks"].get(attack.name)
            cells.append("–" if found is None else _cell(found, attack.score, attack.count))
        rows.append(cells)
    return "\n".join([about(results), "", pages.table(" | ".join(head), rows)])


def distances_table(results: list[dict[str, Any]]) -> str:
    """A row a scheme, a column an attack that recovers images: how far a network sees them from the plain."""
    measured = [result for result in results if "distance of another image" in result]
    if not measured:
        return "Not measured yet."
    columns = [
        a.name
        for a in ATTACKS
        if any("SSIM" in r["attacks"].get(a.name, NOTHING)["scores"] for r in measured)
    ]
    rows = []
    for result in measured:
        scores = [
            result["attacks"].get(name, NOTHING)["scores"].get("perceptual distance") for name in columns
        ]
        rows.append([shown(result["name"]), *("–" if score is None else f"{score:.2f}" for score in scores)])
    another = measured[0]["distance of another image"]
    return f"Another image is {another:.2f} away.\n\n{pages.table(' | '.join(['scheme', *columns]), rows)}"


def _cell(found: dict[str, Any], score: str, count: str) -> str:
    """The score, and where an attack looks for the least number of images that number, and what one gives."""
    value = f"{found['scores'][score]:.3f}"
    if found["attack"] not in COUNTED:
        return value
    number = f"{found['used'][count]:.0f} {count}"
    if found["used"][count] == 1:
        return f"{value} ({number.removesuffix('s')})"
    of_one = [f"; 1: {one:.3f}" for name, one in found["scores"].items() if " of 1 " in name]
    return f"{value} ({number}{''.join(of_one)})"


def pictures(folder: Path) -> str:
    """The contact sheets that lie beside the page."""
    names = [name for name in ("encrypted", *(a.name for a in ATTACKS)) if (folder / file_of(name)).is_file()]
    return "\n\n".join(f"*{name}*\n\n![{name}]({file_of(name)})" for name in names)


def statistics_table(results: list[dict[str, Any]]) -> str:
    names = ["entropy", "chi-square", "symmetry", "horizontal", "vertical", "diagonal"]
    of_keys = ["NPCR", "key NPCR", "key UACI"]
    rows = []
    for result in results:
        attacks = result["attacks"]
        cells = [shown(result["name"])]
        for attack, scores in (("statistics", names), ("sensitivity", of_keys)):
            found = attacks.get(attack)
            cells += ["–" if found is None else f"{found['scores'][score]:.4g}" for score in scores]
        rows.append(cells)
    return pages.table(" | ".join(["scheme", *names, *of_keys]), rows)


def about(results: list[dict[str, Any]]) -> str:
    first = results[0]
    guessing = first["attacks"]["learned inverse"]["scores"]["SSIM of guessing"]
    return (
        f"`{first['command']}`, {max(result['date'] for result in results)[:10]}, {first['images']} at "
        f"{first['size']} x {first['size']} pixels: {first['attacked']} are attacked, the others are the "
        f"attackers' own. Even grey pictures have an SSIM of {guessing:.3f}. Python "
        f"{first['versions']['python']}, torch {first['versions']['torch']}."
    )


def fill(text: str, results: list[dict[str, Any]], folder: Path) -> str:
    """The page with these results, and the pictures that lie in a folder."""
    photos, small = ([r for r in results if (r["size"] == SMALL) == is_small] for is_small in (False, True))
    text = pages.replace(text, "attacks", attacks_table(photos))
    text = pages.replace(text, "cifar", attacks_table(small))
    text = pages.replace(text, "distances", distances_table(small))
    text = pages.replace(text, "pictures", pictures(folder))
    alone = json.loads(encrypted_alone.RECORD.read_text())
    text = pages.replace(text, "encrypted alone", "\n" + encrypted_alone.table(alone) + "\n")
    return pages.replace(text, "statistics", statistics_table(photos))


def sheets(results: list[dict[str, Any]], pictures: Path) -> dict[str, Image.Image]:
    """One contact sheet an attack: the photo, and what was recovered of it under each scheme."""
    found = {}
    for name in ("encrypted", *(attack.name for attack in ATTACKS)):
        files = {
            shown(r["name"]): pictures / r["name"] / f"{name}.png" for r in results if not r["per image"]
        }
        panels = {label: file for label, file in files.items() if file.is_file()}
        if panels:
            plain = next(iter(panels.values())).with_name("plain.png")
            found[name] = sheet({"plain": plain, **panels})
    return found


def sheet(panels: dict[str, Path]) -> Image.Image:
    image = Image.new("RGB", (len(panels) * (PANEL + GAP), PANEL + LABEL), "white")
    draw = ImageDraw.Draw(image)
    for n, (label, file) in enumerate(panels.items()):
        left = n * (PANEL + GAP)
        draw.text((left, 0), label.split(",")[0], fill="black", font=ImageFont.load_default(10))
        with Image.open(file) as panel:
            image.paste(panel.convert("RGB").resize((PANEL, PANEL), Image.Resampling.LANCZOS), (left, LABEL))
    return image.quantize(COLOURS, dither=Image.Dither.NONE)


def file_of(attack: str) -> str:
    return f"attacks-{attack.replace(' ', '-')}.png"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks.page",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="default: the sheets stay as they are")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    results = load(options.results)
    for name, image in sheets(results, options.pictures).items() if options.pictures else ():
        image.save(options.page.with_name(file_of(name)), "PNG", optimize=True)
    options.page.write_text(fill(options.page.read_text(), results, options.page.parent))


if __name__ == "__main__":
    main()
