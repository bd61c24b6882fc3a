"""The tables of docs/attacks-models.md, out of one JSON an attack: python -m benchmarks.attacks_models.page

Between `<!-- NAME -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.accuracy import fast_study
from benchmarks.attacks_models import on_grid, stealing
from benchmarks.attacks_models.target import Sizes

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "attacks-models.md"

Records = dict[str, dict[str, Any]]  # by the names of jobs, in their order

# arXiv 2010.00801, ResNet-18: success of PGD (8/255) with another key by step and block size, and with an
# estimated key at M = 4, in %.
PAPER_ANOTHER = {
    "shuffle": {2: "9.8", 4: "3.3", 8: "4.0", 16: "3.4"},
    "np": {2: "9.6", 4: "4.6", 8: "84.3", 16: "99.0"},
    "ffx": {2: "1.8", 4: "2.0", 8: "1.4", 16: "1.6"},
}
PAPER_ESTIMATED = {"shuffle": "3.70", "np": "77.76", "ffx": "3.27"}
NONE = "–"
NEAR = (20, 10, 5, 1)  # points below the right key
PGD_WAYS = (
    "right key",
    "another key",
    "EOT",
    "estimated key, search-published",
    "estimated key, search-loss-more",
    "inverse, search-published",
    "inverse, search-loss-more",
    "transfer from a plain model",
)


def load(folder: Path) -> Records:
    """The records there are; of a job that was cut short, what it came to."""
    found = {}
    for job in on_grid.jobs():
        for path in (folder / f"{job.name}.json", folder / f"{job.name}.partial.json"):
            if path.exists():
                found[job.name] = json.loads(path.read_text())
                break
    return found


def label(record: dict[str, Any]) -> str:
    """What a network is called: its steps and block size, its stem where it is no convolution, and its epochs
    where they are not those of the accuracy study."""
    config = record["config"]
    steps = "all three" if config["steps"].count(",") == 2 else config["steps"] or "none"
    stem = "" if config["stem"] == "conv" else f", {config['stem']} stem"
    stem += f", started {config['start']}" if config["start"] != "plain" else ""
    stem += "".join(f", {how}" for how in ("distilled", "curriculum") if config.get(how))
    if config["epochs"] != fast_study.rows()[record["model"]].epochs:
        stem += f", {config['epochs']:g} epochs"
    return f"{steps}, M = {config['block_size']}{stem}"


def percent(number: float | None) -> str:
    return NONE if number is None or number != number else f"{100 * number:.1f}"


def _of(records: Records, start: str) -> Iterator[dict[str, Any]]:
    """Those of attacks whose names start so."""
    return (record for record in records.values() if record["attack"].startswith(start))


def stolen(records: Records) -> str:
    """What a thief gets by training on, the better learning rate taken for each number of images."""
    counts = (0, *Sizes.tune_images)
    rows = []

    def row(network: str, goal: str, start: str, of: str, accuracies: list[dict[str, Any]]) -> None:
        at = [[a[f"{n} images"] for a in accuracies if f"{n} images" in a] for n in counts]
        # The thief keeps what is best at the goal, whatever else it does.
        best = [max(some, key=lambda a: a[goal]).get(of) if some else None for some in at]
        rows.append([network, goal, start, of, *map(percent, best)])

    for goal in stealing.GOALS:
        slug = goal.replace(" ", "-")
        for model in on_grid.STOLEN:
            tuned = [r for r in _of(records, f"tune-{slug}") if r["model"] == model]
            if tuned:
                accuracies = [r["result"]["accuracies"] for r in tuned]
                row(label(tuned[0]), goal, "stolen", goal, accuracies)
                row(label(tuned[0]), goal, "stolen", "right key", accuracies)
        for record in _of(records, f"scratch-{slug}"):
            row(label(record), goal, "scratch", goal, [record["result"]["accuracies"]])
    head = "network | trained on | start | accuracy on | "
    return pages.table(head + " | ".join(f"{n:,} images" for n in counts), rows)


def searches(records: Records) -> str:
    rows = []
    for record in _of(records, "search-"):
        result = record["result"]
        scores, starts = result["scores"], len(result["ends"])
        shares = [end["key share"] for end in result["ends"]]
        rows.append(
            [
                label(record),
                record["attack"].removeprefix("search-") + ", cut short" * record["ended_early"],
                f"{result['used']['images']:.0f}",
                f"{starts}",
                f"{result['used']['queries'] / starts:,.0f}",
                percent(scores["accuracy"]),
                percent(result["right key"]["accuracy"]),
                percent(scores["key share"]),
                percent(sum(shares) / starts),
            ]
        )
    head = "network | search | images a query | searches | queries of each | accuracy | with the right key"
    return pages.table(f"{head} | share of the key, best search | mean share", rows)


def relaxed(records: Records) -> str:
    rows = []
    for record in _of(records, "relaxed"):
        scores, used = record["result"]["scores"], record["result"]["used"]
        steps = record["config"]["steps"].split(",")
        shares = (
            scores.get(f"key share of step {steps.index(s)}") if s in steps else None
            for s in ("shuffle", "np")
        )
        right = record["result"]["right key"]["accuracy"]
        counts = [f"{used['images']:,.0f}", f"{used['gradients']:.0f}"]
        rows.append([label(record), *counts, *map(percent, (*shares, scores["accuracy"], right))])
    head = "network | labelled images | gradient steps | share of the shuffle | share of np's mask | accuracy"
    return pages.table(f"{head} | with the right key", rows)


def fake_keys(records: Records) -> str:
    rows = []
    for record in _of(records, "random-keys"):
        result, right = record["result"], record["result"]["right key"]["accuracy"]
        accuracies = result["accuracies"]
        near = [sum(a >= right - points / 100 for a in accuracies) for points in NEAR]
        rows.append(
            [
                label(record),
                f"{len(accuracies):,}",
                percent(right),
                percent(result["scores"]["mean accuracy"]),
                percent(accuracies[len(accuracies) // 100]),
                percent(accuracies[0]),
                *map(str, near),
            ]
        )
    head = "network | random keys | right key | mean | best 1 % from | best"
    return pages.table(" | ".join([head, *(f"within {points} points" for points in NEAR)]), rows)


def fooled(records: Records) -> str:
    ways: dict[str, dict[str, Any]] = {}
    configs = {}
    for record in _of(records, "pgd"):
        ways.setdefault(label(record), {}).update(record["result"])
        configs[label(record)] = record["config"]
    rows = []
    for name, found in sorted(ways.items(), key=lambda pair: pair[0].split(",")[0]):
        config = configs[name]
        paper = PAPER_ANOTHER.get(config["steps"], {}).get(config["block_size"], NONE)
        estimated = PAPER_ESTIMATED.get(config["steps"], NONE) if config["block_size"] == 4 else NONE
        rows.append([name, *(_success(found.get(way)) for way in PGD_WAYS), paper, estimated])
    ways_said = [way.replace("search-", "").replace("loss-more", "loss") for way in PGD_WAYS]
    return pages.table(
        " | ".join(["network", *ways_said, "the paper's, another key", "the paper's, estimated key"]), rows
    )


def _success(found: dict[str, Any] | None) -> str:
    """In %, and of how many images where they are not as many as usual."""
    if found is None:
        return NONE
    count = found["used"]["images"]
    return percent(found["scores"]["success"]) + f" of {count:.0f}" * (count != Sizes.pgd_images)


def ordered(records: Records) -> str:
    rows = []
    for record in _of(records, "seriation"):
        for name, result in record["result"].items():
            scores = result["scores"]
            correlation, error = f"{scores['rank correlation']:.3f}", f"{scores['rank error']:.1f}"
            rows.append([label(record), name, correlation, error, f"{result['used']['queries']:.0f}"])
    return pages.table("network | answers of | rank correlation | rank error, values | images asked", rows)


def read(records: Records) -> str:
    """What slopes tell, of the network and of the one that it was before training."""
    scores = ("ffx share", "np share", "np share, all", "neighbour")
    rows = []
    for record in _of(records, "slopes"):
        trained, untrained = (record["result"][name]["scores"] for name in ("trained", "untrained"))
        cells = [f"{percent(trained.get(score))} ({percent(untrained.get(score))})" for score in scores]
        cells = [NONE if cell == f"{NONE} ({NONE})" else cell for cell in cells]
        queries = f"{record['result']['trained']['used']['queries']:,.0f}"
        rows.append([label(record), *cells, percent(trained["neighbour_guessing"]), queries])
    head = "network | mask of ffx | negatives, where ffx is not | negatives, all | neighbours"
    return pages.table(f"{head} | neighbours by guessing | images asked", rows)


def machine(records: Records) -> str:
    """What the attacks ran on, and for how long."""
    if not records:
        return "Not measured yet."
    said = {f"{r['environment']['device']}, {r['environment']['date']}" for r in records.values()}
    seconds = sum(r["seconds"] for r in records.values())
    width = {f"{r['config']['width']}" for r in records.values()}
    return (
        f"Networks of width {', '.join(sorted(width))}; {len(records)} attacks, {seconds / 60:.0f} minutes "
        f"in all, by processes that shared: {'; '.join(sorted(said))}."
    )


TABLES: dict[str, Callable[[Records], str]] = {
    "machine": machine,
    "stolen": stolen,
    "searches": searches,
    "relaxed": relaxed,
    "fake keys": fake_keys,
    "fooled": fooled,
    "ordered": ordered,
    "read": read,
}


def fill(text: str, records: Records) -> str:
    for name, table in TABLES.items():
        text = pages.replace(text, name, table(records))
    return text


def draw(records: Records, path: Path) -> None:
    """The share of the key that the best of each search had after so many queries of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4))
    for record in _of(records, "search-"):
        curve = record["result"]["curve"]
        found = [100 * point["key share"] for point in curve]
        said = f"{label(record)}: {record['attack'].removeprefix('search-')}"
        axes.step([point["queries"] for point in curve], found, where="post", label=said)
    axes.set_xlabel("queries")
    axes.set_ylabel("share of the key found, %")
    axes.set_xscale("log")
    axes.set_ylim(0, 102)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Keys searched with a model's answers (best search)", fontsize=10)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    page, records = pages.write("benchmarks.attacks_models.page", __doc__, RESULTS, PAGE, fill, load)
    draw(records, page.parent / "attacks-models-searches.png")


if __name__ == "__main__":
    main()
