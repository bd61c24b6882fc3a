"""What was measured as Markdown, JSON and a plot. All of it reads the dictionary that is the JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.speed.peers import PEERS
from benchmarks.speed.rows import BUDGETS, Budget

Results = dict[str, Any]
PACKAGES = ("torch", "numpy", "numba", "torchvision", "opencv-python-headless", "blockenc")


def about(command: str, threads: int) -> Results:
    """The machine, the versions, the date, the command."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "versions": versions,
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def rate(record: Results, name: str) -> float:
    """Values of the input a second; comparable between batches of different size."""
    call = record["calls"][name]
    return float(call["images"] * record["values"] / call["seconds"])


def judge(results: Results) -> list[Results]:
    """Every budget beside what was measured of it; None where nothing was."""
    records = {record["name"]: record for record in results["rows"]}
    judged = []
    for budget in BUDGETS:
        value = measured(budget, records, results)
        judged.append(
            {
                "what": budget.what,
                "row": budget.row.name if budget.row else "",
                "budget": budget.text,
                "measured": value,
                "met": None if value is None else budget.met(value),
            }
        )
    asked = {*records, *([""] if results["import_seconds"] is not None else [])}
    return [budget for budget in judged if budget["row"] in asked]


def measured(budget: Budget, records: dict[str, Results], results: Results) -> float | None:
    if budget.row is None:
        seconds = results["import_seconds"]
        return None if seconds is None else 1e3 * seconds
    record = records.get(budget.row.name)
    if record is None:
        return None
    calls = record["calls"]
    # The first of the native calls is the fastest level's.
    mine = next((name for name in calls if budget.mine in (name, name.partition("/")[0])), None)
    if mine is None or (budget.against is not None and budget.against not in calls):
        return None
    if budget.measure == "us":
        return float(1e6 * calls[mine]["seconds"])
    if budget.measure == "GB/s":
        return rate(record, mine) / 1e9
    ratio = rate(record, mine) / rate(record, str(budget.against))
    return 1 / ratio if budget.measure == "cost" else ratio


def table(results: Results) -> str:
    """All of it as Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"Measured by `{results['command']}` on {results['date']}: {results['cpu']}, {results['machine']}, "
        f"{results['cpus']} CPUs, {results['threads']} threads; {packages}.",
        *(["", "**Tiny batches: these are no measurements.**"] if results["tiny"] else []),
    ]
    if results["budgets"]:
        lines += ["", "| budget | row | at least or at most | measured | |", "|---|---|---|---|---|"]
        for budget in results["budgets"]:
            value = "not measured here" if budget["measured"] is None else f"{budget['measured']:.3g}"
            met = {True: "met", False: "NOT met", None: ""}[budget["met"]]
            lines.append(f"| {budget['what']} | {budget['row']} | {budget['budget']} | {value} | {met} |")
    if results["rows"]:
        names = list(dict.fromkeys(name for record in results["rows"] for name in record["calls"]))
        others = [name for name in names if name != "copy_"]
        lines += [
            "",
            f"| row | batch | copy_ GB/s | {' | '.join(others)} |",
            "|---" * (len(others) + 3) + "|",
        ]
        for record in results["rows"]:
            floor = f"{gigabytes(record, 'copy_'):.1f}" if "copy_" in record["calls"] else ""
            cells = [cell(record, name) for name in others]
            size = "x".join(map(str, record["shape"]))
            lines.append(f"| {record['name']} | {size} | {floor} | {' | '.join(cells)} |")
        lines += ["", *notes(names)]
    if results["scaling"]:
        names = list(results["scaling"][0]["seconds"])
        lines += ["", "Picoseconds a byte (GB/s), uint8 224x224 planar, M = 4, 3 steps:", ""]
        lines += [f"| MB | threads | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        for point in results["scaling"]:
            size = point["bytes"]
            cells = [f"{1e12 * t / size:.0f} ({size / t / 1e9:.1f})" for t in point["seconds"].values()]
            lines.append(f"| {size / 1e6:.0f} | {point['threads']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def gigabytes(record: Results, name: str) -> float:
    """Of the input, a second."""
    itemsize = {"uint8": 1, "float32": 4}.get(record["source"], 2)
    return rate(record, name) * itemsize / 1e9


def cell(record: Results, name: str) -> str:
    call = record["calls"].get(name)
    if call is None:
        return "–"
    ratio = f"{rate(record, name) / rate(record, 'copy_'):.3g}, " if "copy_" in record["calls"] else ""
    smaller = f" for {call['images']}" if call["images"] != record["shape"][0] else ""
    return f"{ratio}{call['seconds'] * 1e3:.3g} ms{smaller}"


def notes(names: list[str]) -> list[str]:
    return [
        "A cell: speed against copy_ of the input, a byte (1 = as fast), and the median time of a call. "
        '"for 111": a slow contender was given that many images of the batch, and its rate is compared.',
        "",
        *(f"- {name}: {PEERS[name].what}" for name in names if name in PEERS),
    ]


def plot(results: Results, path: Path) -> None:
    """GB/s against the bytes of the batch, and against threads, with the copy as the roof."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = results["scaling"]
    names = list(points[0]["seconds"])
    counts = sorted({point["threads"] for point in points})
    sizes = sorted({point["bytes"] for point in points})
    middle = min(sizes, key=lambda size: abs(size - 154e6))  # 1024 images
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), width_ratios=(2, 1), sharey=True)
    for index, name in enumerate(names):
        style = (
            {"color": "black", "linewidth": 2.5, "label": "copy_ (the roof)"}
            if name == "copy_"
            else {"color": f"C{index - 1}", "marker": "o", "markersize": 4, "label": name}
        )

        def speeds(chosen: list[Results], name: str = name) -> list[float]:
            return [point["bytes"] / point["seconds"][name] / 1e9 for point in chosen]

        most = [point for point in points if point["threads"] == counts[-1]]
        axes[0].plot([point["bytes"] / 1e6 for point in most], speeds(most), **style)
        one_size = [point for point in points if point["bytes"] == middle]
        axes[1].plot([point["threads"] for point in one_size], speeds(one_size), **style)
    axes[0].set(
        xscale="log",
        xlabel="MB of the batch",
        ylabel="GB/s of images",
        title=f"{counts[-1]} thread{'s' * (counts[-1] > 1)}",
    )
    axes[0].set_xticks([size / 1e6 for size in sizes], [f"{size / 1e6:.0f}" for size in sizes])
    axes[0].minorticks_off()
    axes[1].set(xlabel="threads", xticks=counts, title=f"{middle / 1e6:.0f} MB")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    for axis in axes:
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    warning = "TINY, NO MEASUREMENT: " * results["tiny"]
    figure.suptitle(f"{warning}uint8, 224x224, M = 4, 3 steps; {results['cpu']}, {results['date'][:10]}")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
