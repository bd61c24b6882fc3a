"""The command line: keys, folders of images, what a file is, and the demo.

What a user can get wrong ends in one line on stderr and exit status 1 (2 for wrong usage, as click has it);
a traceback is a bug. Passwords are never arguments, which other users of the machine could see.
"""

from __future__ import annotations

import enum
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from blockenc.errors import BlockencError, KeyFileError

if TYPE_CHECKING:
    from blockenc.imagefiles import Manifest, Summary, Track
    from blockenc.key import Key

PASSWORD_VARIABLE = "BLOCKENC_PASSWORD"
INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal, as shells report it


class Ffx(str, enum.Enum):
    byte = "byte"
    decimal = "decimal"


class Fit(str, enum.Enum):
    error = "error"
    crop = "crop"
    pad = "pad"


class _Group(TyperGroup):
    """Where the errors of every command become one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):
            raise typer.Exit(INTERRUPTED) from None
        except MemoryError:
            _fail("out of memory")
        except (BlockencError, OSError, TypeError, ValueError) as error:
            _fail(_describe(error))


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {' '.join(message.splitlines())}", err=True)
    raise typer.Exit(1)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


app = typer.Typer(
    name="blockenc",
    cls=_Group,
    help="Block-wise image encryption that neural networks still learn from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it would show local variables, and with them passwords
)

KeyOption = Annotated[Path, typer.Option("--key", help="Key file, made by keygen.")]
PasswordOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer of the oldest release supported reads no `|`
    typer.Option(
        help=f"File whose first line is the key file's password; default: {PASSWORD_VARIABLE}, else a prompt."
    ),
]
BackendOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="What does the work; default: the fastest there is (see inspect)."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite files that are there already.")]


def _version(wanted: bool) -> None:
    if wanted:
        from blockenc import __version__

        typer.echo(f"blockenc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Key file to write.")],
    password_file: PasswordOption = None,
    force: ForceOption = False,
) -> None:
    """Write a new random key to FILE, sealed with a password."""
    from blockenc.key import Key

    if file.is_dir() or (file.exists() and not force):
        raise FileExistsError(17, "exists already; keygen overwrites a file only with --force", str(file))
    if not file.parent.is_dir():
        raise FileNotFoundError(2, "no such folder", str(file.parent))
    key = Key.generate()
    key.save(file, _password(password_file, confirm=True), overwrite=force)
    typer.echo(f"wrote key {key.fingerprint} to {file}")


@app.command()
def encrypt(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="An image, or a folder tree of images.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; for one image also a .png.")],
    key: KeyOption,
    block_size: Annotated[int, typer.Option(help="M: images are cut into M x M blocks.")] = 4,
    steps: Annotated[str, typer.Option(help="Transforms in order, with commas.")] = "shuffle,np,ffx",
    ffx: Annotated[Ffx, typer.Option(help="Profile of the ffx step.")] = Ffx.byte,
    fit: Annotated[
        Fit, typer.Option(help="Sizes that M does not divide: refuse; crop or pad at the right and bottom.")
    ] = Fit.error,
    password_file: PasswordOption = None,
    backend: BackendOption = None,
    force: ForceOption = False,
) -> None:
    """Encrypt the images of SRC into DST: the same tree, as PNG, with a manifest (blockenc.json)."""
    from blockenc.imagefiles import encrypt_files
    from blockenc.scheme import Scheme

    names = tuple(step.strip() for step in steps.split(",") if step.strip())
    scheme = Scheme(block_size=block_size, steps=names, channels=1, ffx=ffx.value)
    secret = _load_key(key, password_file)
    start = time.perf_counter()
    summary = encrypt_files(
        src, dst, secret, scheme, fit=fit.value, backend=backend, force=force, track=_progress("encrypting")
    )
    _report("encrypted", summary, time.perf_counter() - start, dst)


@app.command()
def decrypt(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="An encrypted folder, or one image of it.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; for one image also a .png.")],
    key: KeyOption,
    password_file: PasswordOption = None,
    backend: BackendOption = None,
    force: ForceOption = False,
) -> None:
    """Decrypt what encrypt wrote, to PNG files of the original sizes."""
    from blockenc.imagefiles import decrypt_files

    secret = _load_key(key, password_file)
    start = time.perf_counter()
    summary = decrypt_files(src, dst, secret, backend=backend, force=force, track=_progress("decrypting"))
    _report("decrypted", summary, time.perf_counter() - start, dst)


@app.command()
def inspect(
    path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="[PATH]", help="A key file, an encrypted folder or its manifest, or an image."
        ),
    ] = None,
) -> None:
    """Tell what PATH is, without any password; with no PATH, which backends this install has."""
    if path is None:
        from blockenc.backends import backends

        return _table("backends", backends())
    from blockenc import imagefiles

    if path.is_dir():
        if not (path / imagefiles.MANIFEST).is_file():
            raise imagefiles.ManifestError(f"{path}: no {imagefiles.MANIFEST} here; not an encrypted folder")
        path /= imagefiles.MANIFEST
    if path.suffix.lower() in imagefiles.SUFFIXES:
        return _table(str(path), _image_rows(path))
    with open(path, "rb") as file:
        head = file.read(4096)
    if path.name == imagefiles.MANIFEST or imagefiles.FORMAT.encode() in head:
        return _table(str(path), _manifest_rows(imagefiles.Manifest.read(path)))
    return _table(str(path), _key_rows(path))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("blockenc-demo"),
) -> None:
    """Train a small classifier on encrypted images and show what the right and a wrong key give."""
    try:
        from blockenc.demo import run

        report = run(output)
    except ImportError as error:
        raise BlockencError(f"demo: {error}; try: pip install 'blockenc[demo]'") from None
    typer.echo(f"report: {report}")


def _key_rows(path: Path) -> dict[str, str]:
    from blockenc import keyfile

    header = keyfile.read_header(path)
    try:
        kdf = header["kdf"]
        rows = {
            "kind": "key file",
            "fingerprint": str(header["fingerprint"]),
            "format": f"{header['format']} version {header['version']}",
            "kdf": f"{kdf['name']} (n={kdf['n']}, r={kdf['r']}, p={kdf['p']})",
            "cipher": str(header["cipher"]["name"]),
        }
    except (KeyError, TypeError):
        raise KeyFileError(f"{path}: damaged key file (a field is missing or malformed)") from None
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        rows["warning"] = f"others may read or change this file (mode {mode:03o}): chmod 600 it"
    return rows


def _manifest_rows(manifest: Manifest) -> dict[str, str]:
    sizes = Counter((item.width, item.height, item.channels) for item in manifest.items.values())
    shown = [f"{n} of {w} x {h} x {c}" for (w, h, c), n in sizes.most_common(5)]
    return {
        "kind": "encrypted images",
        "fingerprint": manifest.fingerprint,
        **_scheme_rows(manifest),
        "images": str(len(manifest.items)),
        "sizes": ", ".join(shown) + (", ..." if len(sizes) > len(shown) else ""),
    }


def _scheme_rows(manifest: Manifest) -> dict[str, str]:
    scheme = manifest.scheme
    return {
        "block size": str(scheme.block_size),
        "steps": ", ".join(scheme.steps),
        "ffx": scheme.ffx,
        "fit": manifest.fit,
    }


def _image_rows(path: Path) -> dict[str, str]:
    from blockenc import imagefiles

    size, mode = imagefiles.image_header(path)
    rows = {"kind": "image", "size": f"{size[0]} x {size[1]}", "mode": mode}
    found = imagefiles.find_manifest(path)
    if found is None:
        return {**rows, "encrypted": "not known: no manifest beside it"}
    manifest = imagefiles.Manifest.read(found[0])
    item = manifest.items.get(found[1])
    if item is None:
        return {**rows, "encrypted": f"not listed in {found[0]}"}
    return {
        **rows,
        "encrypted": f"yes, by {found[0]}",
        "fingerprint": manifest.fingerprint,
        **_scheme_rows(manifest),
        "original": f"{item.source}, {item.width} x {item.height}",
    }


def _table(title: str, rows: dict[str, str]) -> None:
    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value, overflow="fold"))
    Console().print(table)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _password(file: Path | None, confirm: bool = False) -> str:
    """The key file's password; no message ever carries it."""
    if file is not None:
        try:
            password = file.read_bytes().split(b"\n", 1)[0].rstrip(b"\r").decode()
        except UnicodeDecodeError:  # its message would show a byte of the password
            raise ValueError(f"{file}: the password is not UTF-8 text") from None
        if not password:
            raise ValueError(f"{file}: expected a password on the first line, got none")
        return password
    if password := os.environ.get(PASSWORD_VARIABLE, ""):
        return password
    if not _at_terminal():
        raise ValueError(f"password: no terminal to ask at; give --password-file or set {PASSWORD_VARIABLE}")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))


def _load_key(path: Path, password_file: Path | None) -> Key:
    from blockenc import keyfile
    from blockenc.key import Key

    keyfile.read_header(path)  # a wrong path is told before a password is asked for
    return Key.load(path, _password(password_file))


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} images/s", style="progress.data.speed")


def _progress(label: str) -> Track:
    """A progress bar on stderr, if that is a terminal."""

    def track(done: Iterable[int], total: int) -> Iterable[int]:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            yield from progress.track(done, total=total, description=label)

    return track


def _report(verb: str, summary: Summary, seconds: float, dst: Path) -> None:
    images = f"{summary.images} image{'s' * (summary.images != 1)}"
    skipped = f"; {summary.skipped} other files left out" if summary.skipped else ""
    typer.echo(
        f"{verb} {images} ({summary.pixels / 1e6:.2f} megapixels) in {seconds:.2f} s to {dst}{skipped}"
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits."""
    # So that a terminated run, too, takes its temporary files with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    app(args=None if args is None else list(args), prog_name="blockenc")
