"""The tables of docs/passports.md out of the recorded results: python -m benchmarks.passports.page

Between `<!-- NAME -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results"
COST = RESULTS / "cost.json"
PAGE = HERE.parents[1] / "docs" / "passports.md"

# The forms that attackers meet, by the names of their JSONs.
FORMS = {
    "plain": "plain",
    "passports-last": "passports, last group",
    "passports-all": "passports, all groups",
    "key-images": "key in the images",
    "key-folded": "key folded in",
}
NOT_RUN = "Not run."


def cost(results: dict[str, Any]) -> str:
    plain = results["rows"][0]

    def time(row: dict[str, Any], what: str) -> str:
        taken = row.get(f"{what}_ms")
        return "–" if taken is None else f"{taken:.0f} ms, {taken / plain[f'{what}_ms']:.3f} x"

    rows = [
        [
            row["form"],
            f"{row['parameters']:,}",
            f"{row['passports']:,}",
            time(row, "training"),
            time(row, "inference"),
        ]
        for row in results["rows"]
    ]
    said = (
        f"`{results['command']}`, {results['date'][:10]}: {results['cpu']}, {results['threads']} threads, "
        f"batches of {results['batch']} images, float32, medians of {results['rounds']} or more; "
        f"torch {results['versions']['torch']}."
    )
    head = "form|parameters|numbers in passports|training step, of plain|inference, of plain"
    return f"{said}\n\n{pages.table(head, rows)}"


def percent(number: float) -> str:
    return f"{100 * number:.1f}"


def accuracies(results: dict[str, Any]) -> str:
    """Of each form: as it is meant to be used, and with random passports or keys."""
    done = {name: results[name] for name in FORMS if name in results}
    if not done:
        return NOT_RUN
    rows = []
    for name, found in done.items():
        right = found["accuracy"]["one_view"]
        below = "–"
        if "plain" in done and name != "plain":
            below = f"{100 * (done['plain']['accuracy']['one_view'] - right):.2f}"
        random = "; ".join(
            f"{kind}: {percent(tried['mean'])} ({percent(tried['min'])} to {percent(tried['max'])})"
            for kind, tried in found["random"].items()
        )
        spelt = percent(found["signature"]) if "signature" in found else "–"
        rows.append(
            [FORMS[name], f"{100 * right:.2f}", below, random or "–", spelt, f"{found['seconds']:.0f}"]
        )
    head = "form|accuracy, %|below plain, points|random ones, %: mean (range)|signature spelt, %|training, s"
    budget = next(iter(done.values()))["budget"]
    said = (
        f"Accuracies of all test images in one view; {budget['tries']} random passports or keys, "
        f"{budget['tried']} test images each."
    )
    return f"{said}\n\n{pages.table(head, rows)}\n\n{machines(done)}"


def forged(results: dict[str, Any]) -> str:
    """Accuracy by attack and number of the attacker's images."""
    done = {name: results[name] for name in FORMS if results.get(name, {}).get("forged")}
    if not done:
        return NOT_RUN
    counts = sorted({row["images"] for found in done.values() for row in found["forged"]})
    rows = []
    for name, found in done.items():
        for attack in dict.fromkeys(row["attack"] for row in found["forged"]):
            by_count = {row["images"]: row for row in found["forged"] if row["attack"] == attack}
            cells = [percent(by_count[n]["accuracy"]) if n in by_count else "–" for n in counts]
            last = by_count[max(by_count)]
            more = [f"{what} {percent(last[what])} %" for what in ("signature", "key share") if what in last]
            queries = "/".join(f"{row['queries']:.0f}" for row in by_count.values() if "queries" in row)
            more += [f"{queries} queries"] * bool(queries)
            right = percent(found["accuracy"]["one_view"])
            rows.append([FORMS[name], right, attack, *cells, ", ".join(more) or "–"])
    head = f"form|right one, %|attack|{'|'.join(f'{n:,} images, %' for n in counts)}|with the most images"
    budget = next(iter(done.values()))["budget"]
    said = f"Gradient descent: {budget['steps']} steps of batches of up to {budget['batch']} images."
    return f"{said}\n\n{pages.table(head, rows)}"


def machines(done: dict[str, Any]) -> str:
    """Where the forms were trained, and how."""
    places, training = set(), set()
    for found in done.values():
        config, where = found["config"], found["environment"]
        training.add(
            f"Width {config['width']}, {config['epochs']:g} epochs of {where['train_images']:,} images"
        )
        device = where["cpu"] if where["device"] == "cpu" else where["device"]
        places.add(f"{device}, {found['precision']}, torch {where['torch']}, {where['date']}")
    return f"{'; '.join(sorted(training))}; {'; '.join(sorted(places))}."


def load(folder: Path) -> dict[str, Any]:
    """The results there are, by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with the tables of these results."""
    text = pages.replace(text, "cost", cost(results["cost"]))
    text = pages.replace(text, "accuracies", accuracies(results))
    return pages.replace(text, "forged", forged(results))


def main() -> None:
    pages.write("benchmarks.passports.page", __doc__, RESULTS, PAGE, fill, load)


if __name__ == "__main__":
    main()
