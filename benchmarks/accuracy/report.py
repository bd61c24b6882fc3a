"""The tables and plots of docs/accuracy.md out of the study's JSONs: python -m benchmarks.accuracy.report

Between `<!-- NAME -->` and `<!-- end -->` the tables are written anew; the text around them is left alone.
Plots go beside the page, as accuracy-*.png. Rows that are not there yet are left out. --setting gpu shows
that study's rows instead; --page then names another page, which is made if it does not exist.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.accuracy.models import STEMS
from benchmarks.accuracy.study import ALL, CPU, GPU, HERE, LINEAR, TINY, recipe
from benchmarks.accuracy.train import Config
from benchmarks.pages import table

PAGE = HERE.parents[1] / "docs" / "accuracy.md"
NOT_MEASURED = "not measured yet"


@dataclass
class Row:
    """The runs of one configuration, which differ in their seeds.

    changes: in what they differ from the setting's usual recipe, beside stem, block size, steps and start.
    """

    config: Config
    changes: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def accuracies(self) -> list[float]:
        """Percent with the right key (or plain), one a seed."""
        found = [run["evaluation"] for run in self.runs]
        return [100 * (e["right_key"] if "right_key" in e else e["plain"]) for e in found]

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def by_seed(self) -> dict[int, float]:
        return dict(zip((run["config"]["seed"] for run in self.runs), self.accuracies))

    @property
    def cpu_epoch(self) -> float:
        """CPU seconds of an epoch: the least, which other work on the machine disturbed least."""
        return min(epoch["cpu_seconds"] for run in self.runs for epoch in run["epochs"])

    def wrong(self, what: str = "") -> dict[str, float]:
        """Percent with wrong keys, over the seeds: mean, sd, min, max."""
        found = [(run["evaluation"][what] if what else run["evaluation"])["wrong_keys"] for run in self.runs]
        return {
            "mean": 100 * statistics.fmean(w["mean"] for w in found),
            "sd": 100 * statistics.fmean(w["sd"] for w in found),
            "min": 100 * min(w["min"] for w in found),
            "max": 100 * max(w["max"] for w in found),
        }


class Study:
    """What the JSONs hold."""

    def __init__(self, folder: Path, setting: str = CPU) -> None:
        self.rows: dict[str, Row] = {}
        for path in sorted(folder.glob("*.json")):
            run = json.loads(path.read_text())
            config = Config(**run["config"])
            usual = Config(**recipe(setting, config.stem, config.block_size))
            changed = ("model", "epochs", "profile", "init")
            changes = {name: v for name in changed if (v := getattr(config, name)) != getattr(usual, name)}
            name = run["name"].removesuffix(f"-seed{config.seed}")
            self.rows.setdefault(name, Row(config, changes)).runs.append(run)
        self.measured = {
            path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("measured/*.json"))
        }

    def find(
        self, stem: str, block_size: int, steps: str, start: str = "plain", **changes: Any
    ) -> Row | None:
        """The row, or None; a plain row's start does not matter, nor a plain convolution's block size."""
        for row in self.rows.values():
            c = row.config
            if (c.stem, c.steps) != (stem, steps) or row.changes != changes:
                continue
            if (steps and c.start != start) or (c.block_size != block_size and (steps or stem != "conv")):
                continue
            return row
        return None

    def plain_of(self, row: Row) -> Row | None:
        """The plain row of the same network and as many epochs; without a look-up: plain values need none."""
        changes = {name: row.changes[name] for name in ("model", "epochs") if name in row.changes}
        return self.find(row.config.stem.removeprefix("lookup-"), row.config.block_size, "", **changes)

    def gaps(self, row: Row | None) -> list[float]:
        """Points below plain, one for each seed that both have."""
        return below(self.plain_of(row), row) if row else []


def below(plain: Row | None, row: Row | None) -> list[float]:
    """Points that `row` is below `plain`, one for each seed that both have."""
    if plain is None or row is None:
        return []
    return [plain.by_seed[seed] - a for seed, a in row.by_seed.items() if seed in plain.by_seed]


MODELS = {"convmixer": "ConvMixer", "vit": "ViT"}


def stem_of(row: Row) -> str:
    """Its stem, and the model if it is not the usual one."""
    model = row.changes.get("model")
    return row.config.stem + (f", {MODELS.get(model, model)}" if model else "")


def steps_of(row: Row) -> str:
    """Its steps in words, and the epochs if they are not the usual ones."""
    names = {"": "plain", ALL: "all three"}
    said = [names.get(row.config.steps, row.config.steps.replace(",", " + "))]
    said += ["decimal"] * (row.config.profile == "decimal")
    said += [f"{row.config.epochs} epochs"] * ("epochs" in row.changes)
    return ", ".join(said)


def start_of(config: Config) -> str:
    if config.stem.endswith("conv") or not config.steps:
        return ""
    if config.start == "protected":
        return "protected"
    if config.stem == "embedding":
        return f"{config.init}, no key"
    return "local, no key" if config.unfold > 1 else "random, no key"


def block_of(config: Config) -> str:
    return "" if config.stem == "conv" and not config.steps else str(config.block_size)


def label_of(row: Row) -> str:
    size = f" M{row.config.block_size}" if block_of(row.config) else ""
    return ", ".join(filter(None, (stem_of(row) + size, steps_of(row), start_of(row.config))))


def with_seeds(values: list[float], form: str = ".2f") -> str:
    """The mean, and behind it every value if there are several."""
    every = f" ({', '.join(f'{v:{form}}' for v in values)})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{every}" if values else ""


def ordered(study: Study) -> list[Row]:
    def place(row: Row) -> tuple[Any, ...]:
        c = row.config
        model = row.changes.get("model", "")
        changes = sorted(map(str, row.changes.items()))
        return model, STEMS.index(c.stem), block_of(c), len(c.step_list), c.steps, changes, start_of(c)

    return sorted(study.rows.values(), key=place)


def rows_table(study: Study) -> str:
    def line(row: Row) -> list[str]:
        c = row.config
        plain_images = wrong = ""
        if c.steps:
            w = row.wrong()
            wrong = f"{w['mean']:.1f} ± {w['sd']:.1f} ({w['min']:.1f} to {w['max']:.1f})"
            plain_images = f"{100 * statistics.fmean(r['evaluation']['plain_images'] for r in row.runs):.1f}"
        gap = with_seeds(study.gaps(row), "+.2f") if c.steps else ""
        right = with_seeds(row.accuracies)
        return [stem_of(row), block_of(c), steps_of(row), start_of(c), right, gap, wrong, plain_images]

    head = (
        "stem | M | trained on | stem starts | right key, % (each seed) | points below plain (each seed) | "
        "wrong keys, %: mean ± sd (range) | plain images, %"
    )
    return table(head, map(line, ordered(study)))


def members_table(study: Study) -> str:
    def line(row: Row) -> list[str]:
        cells = []
        for step in ("shuffle", "np", "ffx"):
            found = [r["evaluation"]["one_wrong_member"].get(step) for r in row.runs]
            values = [100 * f["mean"] for f in found if f]
            cells.append(f"{statistics.fmean(values):.1f}" if values else "–")
        return [
            stem_of(row),
            block_of(row.config),
            steps_of(row),
            start_of(row.config),
            f"{row.accuracy:.1f}",
            *cells,
        ]

    chosen = [row for row in ordered(study) if len(row.config.step_list) > 1]
    return table(
        "stem | M | steps | stem starts | right | wrong shuffle | wrong np | wrong ffx", map(line, chosen)
    )


def time_table(study: Study) -> str:
    conv = study.find("conv", 4, "")

    def line(row: Row) -> list[str]:
        c, run = row.config, row.runs[0]
        behind = with_seeds(below(conv, row), "+.2f") if row is not conv else ""
        seconds = f"{row.cpu_epoch:.1f}"
        total = f"{row.cpu_epoch * c.epochs:.0f}"
        return [
            stem_of(row),
            block_of(c),
            f"{run['parameters']:,}",
            str(c.epochs),
            seconds,
            total,
            with_seeds(row.accuracies),
            behind,
        ]

    plain = [row for row in ordered(study) if not row.config.steps and "epochs" not in row.changes]
    head = (
        "stem | M | parameters | epochs | CPU s an epoch | CPU s in all | plain, % (each seed) | "
        "points below the convolution (each seed)"
    )
    return table(head, map(line, plain))


def protected_table(study: Study) -> str:
    def line(row: Row) -> list[str]:
        c = row.config
        found = [run["evaluation"] for run in row.runs]
        met = statistics.fmean(100 * e["on_encrypted_images"]["mean"] for e in found)
        cells = ["not measured", "", "", ""]
        if all("protected" in e for e in found):
            p = [e["protected"] for e in found]
            w = row.wrong("protected")
            cells = [
                p[0]["steps"].replace(",", " + ") if p[0]["steps"] != ALL else "all three",
                f"{statistics.fmean(100 * e['right_key'] for e in p):.2f}",
                f"{w['mean']:.1f} ± {w['sd']:.1f} ({w['min']:.1f} to {w['max']:.1f})",
                f"{statistics.fmean(100 * e['plain_images'] for e in p):.1f}",
            ]
        return [stem_of(row), str(c.block_size), f"{row.accuracy:.2f}", f"{met:.1f}", *cells]

    head = (
        "stem | M | plain model on plain images, % | on encrypted images, % | protected for | right key, % | "
        "wrong keys, %: mean ± sd (range) | plain images, %"
    )
    plain = [row for row in ordered(study) if not row.config.steps and "epochs" not in row.changes]
    return table(head, map(line, plain))


def curves_table(study: Study) -> str:
    lines = []
    for m in (2, 4, 8):
        plain, protected = study.find("embedding", m, ""), study.find("embedding", m, ALL, "protected")
        if plain is None or protected is None:
            continue
        runs = {run["config"]["seed"]: run for run in plain.runs}
        for run in protected.runs:
            if (other := runs.get(run["config"]["seed"])) is None:
                continue
            pairs = [
                (a, b)
                for x, y in zip(other["epochs"], run["epochs"])
                for a, b in zip(x["losses"], y["losses"])
            ]
            first = abs(pairs[0][0] - pairs[0][1])
            mean = statistics.fmean(abs(a - b) for a, b in pairs)
            signed = statistics.fmean(b - a for a, b in pairs)
            lines.append(
                [str(m), str(run["config"]["seed"]), f"{first:.5f}", f"{mean:.4f}", f"{signed:+.4f}"]
            )
    return table("M | seed | first 20 steps | mean difference | mean signed difference", lines)


def overhead_table(study: Study) -> str:
    found = study.measured.get("overhead")
    if found is None:
        return NOT_MEASURED
    lines = [
        [
            row["stem"],
            str(row["block_size"]),
            f"{row['plain_ms']['cpu']:.1f}",
            f"{row['encrypted_ms']['cpu']:.1f}",
            f"{100 * row['overhead_cpu']:+.2f} ± {100 * row['standard_error']:.2f} %",
            f"{row['plain_ms']['prepare']:.2f}",
            f"{row['encrypted_ms']['prepare']:.2f}",
            f"{100 * row['overhead_prepare']:+.2f} %",
        ]
        for row in found["overhead"]
    ]
    head = (
        "stem | M | step, plain, CPU ms | encrypted | difference | batch alone, plain, ms | encrypted | "
        "of a step"
    )
    return table(head, lines)


def leak_table(study: Study) -> str:
    found = study.measured.get("leak")
    if found is None:
        return NOT_MEASURED

    def line(row: dict[str, Any]) -> list[str]:
        v, p = row["values"], row["places"]
        part = f"{100 * p['part_of_the_block']:.0f}" if "part_of_the_block" in p else "–"
        guess = f"{100 * p['part_of_the_block_guessing']:.0f}" if "part_of_the_block" in p else "–"
        return [
            row["trained"],
            str(row["block_size"]),
            f"{100 * v['rows_within_8']:.1f} ({100 * v['rows_within_8_guessing']:.1f})",
            f"{v['rank_correlation']:.3f}",
            f"{part} ({guess})",
            f"{100 * p['neighbour']:.0f} ({100 * p['neighbour_guessing']:.0f})"
            if row["block_size"] > 2
            else "–",
        ]

    head = (
        "trained on | M | table entries within 8 of the truth, % (guessing) | rank correlation | "
        "positions in the right part of the block, % (guessing) | most similar is a neighbour, % (guessing)"
    )
    return table(head, map(line, found["leak"]))


def goals_table(study: Study) -> str:
    """Every goal of the issue, what was measured, and whether it is met."""
    lines: list[list[str]] = []

    def judge(what: str, goal: float, values: list[float], unit: str = "points") -> None:
        measured, verdict = NOT_MEASURED, "–"
        if values:
            measured = f"{statistics.fmean(values):.2f}"
            verdict = "met" if statistics.fmean(values) <= goal else "missed"
            if unit == "points":
                each = f": {', '.join(f'{v:.2f}' for v in values)}" if len(values) > 1 else ""
                measured += f" ({len(values)} seed{'s' * (len(values) > 1)}{each})"
        lines.append([what, f"<= {goal:g} {unit}", measured, verdict])

    for m in (2, 4):
        row = study.find("embedding", m, ALL, "protected")
        what = f"embedding stem, M = {m}, all three steps, protected start: gap to plain"
        judge(what, 0.5, study.gaps(row))
    conv = study.find("conv", 4, "")
    for m in (2, 4):
        what = f"embedding stem, M = {m}, plain, below the convolution at equal time"
        judge(what, 2, below(conv, study.find("embedding", m, "")))
    for m in (2, 4):
        for start, said in (("protected", "protected start"), ("plain", "local start, no key")):
            what = f"block stem, M = {m}, shuffle + np, {said}: gap to plain"
            judge(what, 1, study.gaps(study.find("block", m, LINEAR, start)))
    judge("conv stem, M = 2, all three steps: gap to plain", 1, study.gaps(study.find("conv", 2, ALL)))
    for longer in (row for row in ordered(study) if "epochs" in row.changes and row.config.steps == ALL):
        what = f"conv stem, M = {longer.config.block_size}, all three steps, {longer.config.epochs} epochs: "
        judge(what + "gap to plain, trained as long", 1, study.gaps(longer))
    for step in ("shuffle", "np", "ffx"):
        what = f"conv stem, M = 4, {step} alone: gap to plain"
        judge(what, 3, study.gaps(study.find("conv", 4, step)))
    for small, said in ((True, "M = 2"), (False, "M = 4 and 8")):
        found = [r for r in ordered(study) if r.config.steps == ALL and (r.config.block_size == 2) == small]
        worst_mean = [max(row.wrong()["mean"] for row in found)] if found else []
        judge(f"wrong keys, all three steps, {said}: highest mean of a row", 15, worst_mean, "%")
    overhead = study.measured.get("overhead")
    worst = [100 * max(row["overhead_prepare"] for row in overhead["overhead"])] if overhead else []
    judge("encryption: share of a training step, the worst stem", 1, worst, unit="%")
    return table("goal | at most | measured | ", lines)


TABLES: dict[str, Callable[[Study], str]] = {
    "goals": goals_table,
    "rows": rows_table,
    "time": time_table,
    "protected": protected_table,
    "members": members_table,
    "curves": curves_table,
    "overhead": overhead_table,
    "leak": leak_table,
}

COLOURS = dict(zip(STEMS, ("tab:blue", "tab:orange", "tab:green", "tab:cyan", "tab:olive")))


def plot_block_sizes(study: Study, axes: Any) -> None:
    """Accuracy against M, plain (open) and encrypted with all steps that the stem takes (filled)."""
    sizes = (2, 4, 8)
    for stem, steps, start, style in (
        ("conv", "", "plain", "o:"),
        ("conv", ALL, "plain", "o-"),
        ("block", "", "plain", "o:"),
        ("block", LINEAR, "protected", "s-"),
        ("block", LINEAR, "plain", "o-"),
        ("embedding", "", "plain", "o:"),
        ("embedding", ALL, "protected", "s-"),
        ("embedding", ALL, "plain", "o-"),
    ):
        found = {m: row for m in sizes if (row := study.find(stem, m, steps, start))}
        if not found:
            continue
        first = next(iter(found.values()))
        label = ", ".join(filter(None, (stem, steps_of(first), start_of(first.config))))
        face = COLOURS[stem] if steps else "white"
        y = [row.accuracy for row in found.values()]
        axes.plot(list(found), y, style, color=COLOURS[stem], mfc=face, label=label)
    axes.set(xlabel="block size M", ylabel="accuracy, %", xticks=sizes, title="right key, against plain")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def plot_keys(study: Study, axes: Any) -> None:
    """Right key and wrong keys, of every encrypted row."""
    chosen = [row for row in ordered(study) if row.config.steps]
    axes.figure.set_figheight(1.2 + 0.3 * len(chosen))
    for n, row in enumerate(chosen):
        w = row.wrong()
        axes.barh(n - 0.2, row.accuracy, 0.38, color=COLOURS[row.config.stem])
        spread = [[w["mean"] - w["min"]], [w["max"] - w["mean"]]]
        axes.barh(n + 0.2, w["mean"], 0.38, color="tab:red", xerr=spread, error_kw={"lw": 0.8}, capsize=2)
    axes.axvline(10, color="black", lw=0.8, ls=":")
    axes.set_yticks(range(len(chosen)), [label_of(row) for row in chosen], fontsize=8)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set(xlabel="accuracy, %", xlim=(0, 100))
    axes.set_title(
        "right key (colour: stem) and wrong keys (red: mean and range; dotted: chance)", fontsize=10
    )


def plot_curves(study: Study, axes: Any) -> None:
    """Training loss, plain and encrypted."""
    pairs = [
        ("conv", 4, "plain"),
        ("conv", 2, "plain"),
        ("embedding", 4, "protected"),
        ("embedding", 2, "protected"),
    ]
    shown = set()
    for stem, m, start in pairs:
        for row, style in ((study.find(stem, m, ""), "-"), (study.find(stem, m, ALL, start), "--")):
            if row is None or id(row) in shown:
                continue
            shown.add(id(row))
            losses = [(n, epoch["losses"]) for n, epoch in enumerate(row.runs[0]["epochs"])]
            x = [n + (k + 0.5) / len(some) for n, some in losses for k in range(len(some))]
            colour = {("conv", 2): "tab:cyan", ("embedding", 2): "tab:olive"}.get((stem, m), COLOURS[stem])
            if style == "-" and stem == "conv":
                colour = "black"
            label = label_of(row)
            y = [loss for _, some in losses for loss in some]
            axes.plot(x, y, style, color=colour, lw=1, label=label)
    axes.set(xlabel="epoch", ylabel="training loss, mean of 20 steps", title="training curves")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def plot_time(study: Study, axes: Any) -> None:
    """CPU time of a step with and without encryption, interleaved."""
    found = study.measured.get("overhead", {"overhead": []})["overhead"]
    for n, row in enumerate(found):
        axes.bar(n - 0.2, row["plain_ms"]["cpu"], 0.38, color="tab:gray", label="plain" if not n else None)
        encrypted = "encrypted" if not n else None
        axes.bar(n + 0.2, row["encrypted_ms"]["cpu"], 0.38, color="tab:purple", label=encrypted)
        text = f"{100 * row['overhead_cpu']:+.1f} ± {100 * row['standard_error']:.1f} %"
        axes.annotate(
            text, (n, max(row["plain_ms"]["cpu"], row["encrypted_ms"]["cpu"])), ha="center", va="bottom"
        )
    axes.set_xticks(range(len(found)), [f"{row['stem']} M{row['block_size']}" for row in found])
    axes.set(ylabel="CPU ms of a training step", title="with and without encryption, in turn")
    axes.margins(y=0.25)
    if found:
        axes.legend(loc="upper left", ncols=2)


PLOTS: dict[str, Callable[[Study, Any], None]] = {
    "block-sizes": plot_block_sizes,
    "keys": plot_keys,
    "curves": plot_curves,
    "time": plot_time,
}


def fill(text: str, study: Study) -> str:
    """The page with its tables as the study has them. Raises ValueError if it lacks one."""
    for name, make in TABLES.items():
        text = pages.replace(text, name, make(study))
    return text


def report(results: Path, page: Path, setting: str = CPU) -> None:
    """Rewrite the page's tables and the plots beside it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    study = Study(results, setting)
    if page.exists():
        text = page.read_text()
    else:
        text = "# Accuracy\n" + "".join(f"\n<!-- {name} -->\n<!-- end -->\n" for name in TABLES)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(fill(text, study))
    for name, plot in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=(10 if name == "keys" else 7, 4.5), layout="constrained")
        plot(study, axes)
        # No date, no version: the same results give the same file.
        figure.savefig(page.with_name(f"{page.stem}-{name}.png"), dpi=90, metadata={"Software": None})
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.report",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--setting", choices=(CPU, GPU, TINY), default=CPU)
    parser.add_argument("--results", type=Path, metavar="DIR", help="as in the study")
    parser.add_argument("--page", type=Path, default=PAGE)
    o = parser.parse_args()
    report(o.results or HERE / ("results" if o.setting == CPU else f"results_{o.setting}"), o.page, o.setting)


if __name__ == "__main__":
    main()
