"""The command line: keys, folders of images, what a file is, and the demo.

What a user can get wrong ends in one line on stderr and exit status 1 (2 for wrong usage, as click has it);
a traceback is a bug. Passwords are never arguments, which other users of the machine could see.
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import signal
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer
from rich.markup import escape
from typer.core import TyperGroup

from blockenc.cli.inspect import show, show_scheme
from blockenc.cli.progress import report, tracked
from blockenc.errors import UNFORESEEN, BlockencError
from blockenc.scheme import STEPS, Scheme
from blockenc.schemes import PRESETS, named
from blockenc.text import printable

if TYPE_CHECKING:
    from blockenc.datasets.engine import Engine
    from blockenc.datasets.units import Selection
    from blockenc.keys import Key, KeySet
    from blockenc.steps import Step

PASSWORD_VARIABLE = "BLOCKENC_PASSWORD"
_password_given: ContextVar[str] = ContextVar("password", default="")  # that of the variable
INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal, as shells report it


class Ffx(str, enum.Enum):
    byte = "byte"
    decimal = "decimal"


class Fit(str, enum.Enum):
    error = "error"
    crop = "crop"
    pad = "pad"


class Mode(str, enum.Enum):
    rgb = "rgb"
    keep = "keep"


class Coding(str, enum.Enum):
    png = "png"
    jpeg = "jpeg"


class Subsampling(str, enum.Enum):
    none = "444"
    half = "420"


class Verify(str, enum.Enum):
    none = "none"
    sample = "sample"
    all = "all"


class Engines(str, enum.Enum):
    threads = "threads"
    ray = "ray"


class _Group(TyperGroup):
    """Where the errors of every command become one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _password_taken():
                return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):
            raise typer.Exit(INTERRUPTED) from None
        except MemoryError:
            _fail("out of memory")
        except (BlockencError, OSError, TypeError, ValueError, sqlite3.Error) as error:
            _fail(_describe(error))
        except UNFORESEEN as error:
            _fail(
                f"{type(error).__name__}: {error} (blockenc should have told what is wrong; please report it)"
            )
        except Exception as error:
            if hasattr(error, "format_message"):  # wrong usage, of which click tells: in one line, too
                error.message = printable(error.message)  # type: ignore[attr-defined]
            raise


@contextlib.contextmanager
def _password_taken() -> Iterator[None]:
    """Takes the password out of the environment, which processes that we start, such as Ray's, inherit."""
    password = os.environ.pop(PASSWORD_VARIABLE, None)
    token = _password_given.set(password or "")
    try:
        yield
    finally:
        _password_given.reset(token)
        if password is not None:  # for whoever calls us from Python
            os.environ[PASSWORD_VARIABLE] = password


def _fail(message: str) -> NoReturn:
    _say("error", message)
    raise typer.Exit(1)


def _warn(message: str) -> None:
    _say("warning", message)


def _say(what: str, message: str) -> None:
    typer.echo(f"{what}: {printable(' '.join(message.splitlines()))}", err=True)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


STEPS_HELP = (
    "Transforms in order, with commas; what a step has of its own after colons, such as "
    "scramble:period=image,np:unit=block:period=image."
)

app = typer.Typer(
    name="blockenc",
    cls=_Group,
    help="Block-wise image encryption that neural networks still learn from.",
    no_args_is_help=True,
    rich_markup_mode="rich",  # so square brackets in texts of help are escaped
    pretty_exceptions_enable=False,  # it would show local variables, and with them passwords
)

KeyOption = Annotated[Path, typer.Option("--key", help="Key file, of a key or a key set, made by keygen.")]
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
WorkersOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Files done at once; default: one a processor."),
]
EngineOption = Annotated[
    Engines,
    typer.Option(
        help="Who does the work: threads here, or Ray workers ("
        + escape("pip install 'blockenc[ray]'")
        + ")."
    ),
]
RayOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="ADDRESS", help="Ray cluster to join; default: RAY_ADDRESS, else a local one."),
]
MEMORY = 256
MemoryOption = Annotated[
    int,
    typer.Option(
        metavar="MB", min=1, help="What one picture, row, member or batch may take once it is unpacked."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite files that are there already.")]
IncludeOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="PATTERN", help="Take only files, or folders, that match, such as *.png or train/*."
    ),
]
ExcludeOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="PATTERN", help="Leave out files, or folders, that match."),
]
LinksOption = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that lead out of SRC; others always are.")
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-damaged", help="Leave out damaged files and list them in blockenc.skipped.txt."),
]


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
    key_set: Annotated[
        bool, typer.Option("--set", help="Write a key set: one key each for shuffle, np and ffx.")
    ] = False,
    password_file: PasswordOption = None,
    force: ForceOption = False,
) -> None:
    """Write a new random key to FILE, sealed with a password."""
    from blockenc.keys import Key, KeySet

    if file.is_dir() or (file.exists() and not force):
        raise FileExistsError(17, "exists already; keygen overwrites a file only with --force", str(file))
    if not file.parent.is_dir():
        raise FileNotFoundError(2, "no such folder", str(file.parent))
    key = KeySet.generate() if key_set else Key.generate()
    key.save(file, _password(password_file, confirm=True), overwrite=force)
    typer.echo(f"wrote key{' set' * key_set} {key.fingerprint} to {printable(file)}")


@app.command()
def encrypt(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="An image or data set file, or a folder tree.")],
    dst: Annotated[str, typer.Argument(metavar="DST", help="Folder to write; for one file also a file.")],
    key: KeyOption,
    block_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="M: images are cut into M x M blocks; default: 4, or the scheme's own."),
    ] = None,
    steps: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"{STEPS_HELP} Default: {','.join(STEPS)}."),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--scheme", metavar="NAME", help=f"A published scheme, instead of steps: {', '.join(PRESETS)}."
        ),
    ] = None,
    ffx: Annotated[Ffx, typer.Option(help="Profile of the ffx step.")] = Ffx.byte,
    fit: Annotated[
        Fit, typer.Option(help="Sizes that M does not divide: refuse; crop or pad at the right and bottom.")
    ] = Fit.error,
    mode: Annotated[
        Mode,
        typer.Option(help="Picture files: encrypt the RGB that loaders see, or keep 1, 3 or 4 channels."),
    ] = Mode.rgb,
    convert: Annotated[
        bool, typer.Option("--convert", help="Accept what 8-bit RGB loses: 16 bits, CMYK, further frames.")
    ] = False,
    format: Annotated[
        Coding, typer.Option(help="Pictures as PNG, or as JPEG, which keeps steps on whole blocks only.")
    ] = Coding.png,
    quality: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Of JPEG, 1 to 100; default: 90."),
    ] = None,
    subsampling: Annotated[
        Optional[Subsampling],  # noqa: UP045
        typer.Option(help="Of JPEG: 444 (blocks of 8) or 420 (of 16); default: 444."),
    ] = None,
    per_image: Annotated[
        bool, typer.Option("--per-image", help="Keys for each image, by its path below SRC.")
    ] = False,
    resize: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|WxH", help="Resize pictures first: the shorter side to N, or to W x H."),
    ] = None,
    crop: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|WxH", help="Then cut N x N, or W x H, from their middle."),
    ] = None,
    copy: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="PATTERN",
            help="Copy unencrypted, whatever it is: files, or shard.tar/member, table.parquet/column.",
        ),
    ] = None,
    max_memory: MemoryOption = MEMORY,
    verify: Annotated[
        Verify, typer.Option(help="Decrypt again and compare: no file, a sample of 100, or all.")
    ] = Verify.none,
    shard: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="I/N", help="Do only part I (from 0) of N; the N runs may share DST."),
    ] = None,
    workers: WorkersOption = None,
    engine: EngineOption = Engines.threads,
    ray_address: RayOption = None,
    password_file: PasswordOption = None,
    backend: BackendOption = None,
    force: ForceOption = False,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    follow_links: LinksOption = False,
    skip_damaged: SkipOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Encrypt what is encrypted already once more.")
    ] = False,
) -> None:
    """Encrypt SRC into DST: the same tree, images as PNG (or JPEG), with a manifest (blockenc.json).

    SRC holds images, CIFAR python batches, webdataset tar shards, .npy and .npz arrays, and Parquet or
    Arrow tables. A run that was cut off goes on when it is repeated.
    """
    from blockenc.datasets.coding import coding_from
    from blockenc.datasets.engine import encrypt_files
    from blockenc.datasets.reading import Reading, parse_edges

    scheme = _scheme(block_size, steps, ffx, preset)
    part = _shard(shard)
    reading = Reading(
        mode=mode.value,
        convert=convert,
        resize=parse_edges("resize", resize),
        crop=parse_edges("crop", crop),
        copy=tuple(copy or ()),
        max_bytes=max_memory << 20,
        coding=coding_from(format.value, quality, subsampling and subsampling.value),
    )
    secret = _load_key(key, password_file)
    start = time.perf_counter()
    summary = encrypt_files(
        src,
        dst,
        secret,
        scheme,
        fit=fit.value,
        reading=reading,
        per_image=per_image,
        backend=backend,
        force=force,
        verify=verify.value,
        shard=part,
        workers=workers,
        engine=_engine(engine, ray_address),
        track=tracked("encrypting"),
        selection=_selection(include, exclude, follow_links),
        skip_damaged=skip_damaged,
        again=again,
        warn=_warn,
    )
    report("encrypted", summary, time.perf_counter() - start, dst)


@app.command()
def decrypt(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="An encrypted folder, or one file of it.")],
    dst: Annotated[str, typer.Argument(metavar="DST", help="Folder to write; for one file also a file.")],
    key: KeyOption,
    max_memory: MemoryOption = MEMORY,
    workers: WorkersOption = None,
    engine: EngineOption = Engines.threads,
    ray_address: RayOption = None,
    password_file: PasswordOption = None,
    backend: BackendOption = None,
    force: ForceOption = False,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    follow_links: LinksOption = False,
    skip_damaged: SkipOption = False,
    block_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Without a manifest: M of the encryption."),
    ] = None,
    steps: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Without a manifest: steps of the encryption, as they were given there."),
    ] = None,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--scheme", metavar="NAME", help="Without a manifest: --scheme of the encryption."),
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Without a manifest: --mode of the encryption.")] = Mode.rgb,
    format: Annotated[
        Coding, typer.Option(help="Without a manifest: --format of the encryption.")
    ] = Coding.png,
    subsampling: Annotated[
        Optional[Subsampling],  # noqa: UP045
        typer.Option(help="Without a manifest: --subsampling of the encryption."),
    ] = None,
    size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="WxH", help="Without a manifest: size before padding; default: all of it."),
    ] = None,
) -> None:
    """Decrypt what encrypt wrote: images as PNG files of the original sizes, data sets in their formats.

    Where the manifest (blockenc.json) is lost, --block-size and --steps, or --scheme, stand in for it; then
    nothing tells whether they, and the key, are right.
    """
    from blockenc.datasets.coding import PNG, coding_from
    from blockenc.datasets.engine import decrypt_files, decrypt_unlisted

    scheme, coding = None, coding_from(format.value, None, subsampling and subsampling.value)
    if preset is not None or (block_size is not None and steps is not None):
        scheme = _scheme(block_size, steps, Ffx.byte, preset)
    elif block_size is not None or steps is not None or size is not None or coding != PNG:
        raise ValueError("decrypting without a manifest: expected both --block-size and --steps, or --scheme")
    wanted_size = _size(size)
    secret = _load_key(key, password_file)
    start = time.perf_counter()
    options: dict[str, Any] = {
        "max_bytes": max_memory << 20,
        "backend": backend,
        "force": force,
        "workers": workers,
        "engine": _engine(engine, ray_address),
        "track": tracked("decrypting"),
        "selection": _selection(include, exclude, follow_links),
        "skip_damaged": skip_damaged,
        "warn": _warn,
    }
    if scheme is None:
        summary = decrypt_files(src, dst, secret, **options)
    else:
        summary = decrypt_unlisted(
            src, dst, secret, scheme, size=wanted_size, mode=mode.value, coding=coding, **options
        )
    report("decrypted", summary, time.perf_counter() - start, dst)


def _scheme(block_size: int | None, steps: str | None, ffx: Ffx, preset: str | None) -> Scheme:
    if preset is not None:
        if steps is not None or ffx is not Ffx.byte:
            raise ValueError("--scheme: stands for its steps, so it goes without --steps and --ffx")
        return named(preset, block_size, channels=1)
    texts = STEPS if steps is None else steps.split(",")
    given = tuple(_step(text.strip(), n) for n, text in enumerate(texts) if text.strip())
    size = Scheme.block_size if block_size is None else block_size
    return Scheme(size, given, channels=1, ffx=ffx.value)


def _step(text: str, n: int) -> str | Step:
    """`KIND`, or `KIND:NAME=VALUE:...` with fields of the step as its JSON has them. Raises ValueError."""
    from blockenc.scheme import step_from

    kind, *pairs = text.split(":")
    if not pairs:
        return kind
    fields: dict[str, str | int] = {"kind": kind}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not value or name in fields:
            raise ValueError(
                f"steps[{n}]: expected NAME=VALUE, each name once, such as period=image, got {text!r}"
            )
        fields[name] = int(value) if value.isdecimal() else value
    return step_from(fields, n)


def _selection(include: list[str] | None, exclude: list[str] | None, follow_links: bool) -> Selection:
    from blockenc.datasets.units import Selection

    return Selection(tuple(include or ()), tuple(exclude or ()), follow_links)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"--size: expected WIDTHxHEIGHT such as 640x480, got {text!r}")
    return int(width), int(height)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        i, n = (int(number) for number in text.split("/"))
    except ValueError:
        raise ValueError(f"shard: expected I/N such as 0/4, got {text!r}") from None
    return i, n


def _engine(name: Engines, address: str | None) -> Engine:
    if name is Engines.threads:
        if address is not None:
            raise ValueError("--ray-address: goes with --engine ray")
        from blockenc.datasets.engine import in_threads

        return in_threads
    from blockenc.datasets.on_ray import in_ray

    return in_ray(address)


WEIGHTS_HELP = "A safetensors file."


@app.command()
def seal(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=WEIGHTS_HELP)],
    key: KeyOption,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", metavar="SEAL", help="Seal to write; default: FILE.seal."),
    ] = None,
    chunk: Annotated[
        int,
        typer.Option("--chunk", metavar="KiB", min=1, max=1 << 16, help="How finely changes are located."),
    ] = 64,
    password_file: PasswordOption = None,
    force: ForceOption = False,
) -> None:
    """Write a seal of FILE: keyed tags by which verify finds out what was changed, and where."""
    from blockenc.sealing.api import seal
    from blockenc.sealing.seal_file import SealFile

    if not file.exists():
        raise FileNotFoundError(2, "no such file", str(file))
    written = seal(file, _load_key(key, password_file), output, chunk_bytes=chunk << 10, overwrite=force)
    with SealFile(written) as sealed:
        head = sealed.head
    size = sum(entry.size for entry in head.entries)
    typer.echo(
        f"sealed {len(head.entries)} tensors ({size / 1e6:.2f} MB) with key {head.fingerprint} to "
        f"{printable(written)}"
    )


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=WEIGHTS_HELP)],
    key: KeyOption,
    seal: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--seal", metavar="SEAL", help="Its seal; default: FILE.seal."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    password_file: PasswordOption = None,
) -> None:
    """Tell whether FILE is what was sealed, and what differs; then the exit status is 1."""
    import json

    from blockenc.sealing.api import verify

    if not file.exists():
        raise FileNotFoundError(2, "no such file", str(file))
    found = verify(file, _load_key(key, password_file), seal, report=True)
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else f"{printable(file)}: {found}")
    if not found.intact:
        raise typer.Exit(1)


@app.command()
def inspect(
    path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="PATH",
            help="A key file, an encrypted folder or its manifest, an image, a seal, or a safetensors file.",
        ),
    ] = None,
    scheme: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="NAME|FILE",
            help="Instead of a PATH: a published scheme, or a scheme in a JSON file; its key space and what "
            "is weak about it.",
        ),
    ] = None,
) -> None:
    """Tell what PATH or a scheme is, without any password; with neither, which backends this install has."""
    if scheme is None:
        return show(path)
    if path is not None:
        raise ValueError("--scheme: goes without a PATH")
    show_scheme(scheme)


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
    typer.echo(f"report: {printable(report)}")


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
    if password := _password_given.get():
        return password
    if not _at_terminal():
        raise ValueError(f"password: no terminal to ask at; give --password-file or set {PASSWORD_VARIABLE}")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))


def _load_key(path: Path, password_file: Path | None) -> Key | KeySet:
    from blockenc.keys import keyfile, load_key

    keyfile.read_header(path)  # a wrong path is told before a password is asked for
    return load_key(path, _password(password_file))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits."""
    # Pillow warns of pictures that are refused for their size, or that the user means.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    # So that a terminated run, too, takes its temporary files with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of an encoding that may not have every character
            stream.reconfigure(errors="backslashreplace")
    app(args=None if args is None else list(args), prog_name="blockenc")
