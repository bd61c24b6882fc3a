"""How far a run has come, while it runs, and what it did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from blockenc.text import printable

if TYPE_CHECKING:
    from blockenc.datasets.engine import Finished, Summary, Track


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        images = task.fields["images"]
        rate = images / task.elapsed if task.elapsed else 0.0
        return Text(f"{images} images, {rate:.1f}/s", style="progress.data.speed")


def tracked(label: str) -> Track:
    """A progress bar on stderr, if that is a terminal: bytes of the sources, images, rate, time left."""

    def track(done: Iterable[Finished], total: int) -> Iterable[Finished]:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(label, total=total, images=0)
            images = 0
            for unit in done:
                images += unit.images
                progress.update(task, advance=unit.size, images=images)
                yield unit

    return track


def report(verb: str, summary: Summary, seconds: float, dst: str) -> None:
    """What was done, in one line; then a line for each kind of file that was left out."""
    from blockenc.datasets.units import described

    images = f"{summary.images} image{'s' * (summary.images != 1)}"
    resumed = f"; {summary.resumed} were done before" if summary.resumed else ""
    copied = f"; {summary.without} files without images copied" if summary.without else ""
    if summary.copied:
        copied += f"; {summary.copied} copied unencrypted (--copy)"
    if summary.metadata:
        copied += f"; metadata (EXIF, colour profile, text) of {summary.metadata} left out"
    size = f"{summary.pixels / 1e6:.2f} megapixels"
    lines = [f"{verb} {images} ({size}) in {seconds:.2f} s to {dst}{resumed}{copied}"]
    for line in lines + described(summary.left_out):
        typer.echo(printable(line))
