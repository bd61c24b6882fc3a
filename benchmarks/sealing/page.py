"""The tables of docs/sealing.md out of the recorded results: python -m benchmarks.sealing.page

Between `<!-- located -->` or `<!-- cost -->` and `<!-- end -->` the page is written anew; the text around is
left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "sealing.md"


def sentence(results: dict[str, Any]) -> str:
    found = results["located"]
    header = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found["header"].items()))
    return (
        f"Of {found['bits']:,} single bits changed one at a time in the values of a ResNet-18 (random "
        f"weights; {found['bytes'] / 1e6:.1f} MB, {found['tensors']} tensors, {found['chunks']} chunks of "
        f"{found['chunk bytes'] >> 10} KiB at most), {found['located']:,} were located: as the only "
        "difference, in the right tensor and the right chunk; a median of "
        f"{1000 * found['median seconds']:.0f} ms each. Of "
        f"{found['bits']:,} in the header of that file: {header}. Seed {found['seed']}, "
        f"`{results['command']}`, {results['date'][:10]}."
    )


def table(results: dict[str, Any]) -> str:
    versions = results["versions"]
    lines = [
        f"Measured by `{results['command']}` on {results['date'][:10]}: {results['cpu']}, files in the page "
        f"cache, medians of {results['repeats']}; Python {versions['python']}, torch {versions['torch']}. "
        "Seconds are of the processor, one thread. Memory: the peak of what is resident, less "
        "what was before the call.",
        "",
        "| weights | MB | seal, s | verify, s | GB/s, verify | SHA-256 of the file alone, s | seal file, MB "
        "| memory to seal, MB | memory to verify, MB |",
        "| --- |" + " ---: |" * 8,
    ]
    for row in results["rows"]:
        seconds, memory = row["seconds"], row["memory"]
        alone = f"{seconds['SHA-256 alone']:.2f}" if "SHA-256 alone" in seconds else ""
        cells = [
            row["form"],
            f"{row['megabytes']}",
            *(f"{seconds[name]:.2f}" for name in ("seal", "verify")),
            f"{row['megabytes'] / 1000 / seconds['verify']:.2f}",
            alone,
            f"{row['seal bytes'] / 1e6:.2f}",
            *(f"{memory[name] / 1e6:.1f}" for name in ("seal", "verify")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with what was found."""
    return pages.replace(pages.replace(text, "located", sentence(results)), "cost", table(results))


def main() -> None:
    pages.write("benchmarks.sealing.page", __doc__, RESULTS, PAGE, fill)


if __name__ == "__main__":
    main()
