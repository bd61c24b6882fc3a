"""What `inspect` shows: what a key file, an encrypted folder, its manifest or an image is."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from blockenc.scheme import Scheme
from blockenc.schemes import PRESETS, name_of, named
from blockenc.text import printable

if TYPE_CHECKING:
    from blockenc.datasets.formats import Format
    from blockenc.datasets.manifest import Manifest
    from blockenc.steps import Step


LARGE = 224  # pixels: the size, or the next one that fits, for which key spaces of whole images are told


def show(path: Path | None) -> None:
    """Print a table of what there is to tell about a path; of None, which backends this install has."""
    if path is None:
        from blockenc.backends import backends

        return _table("backends", backends())
    from blockenc.datasets import formats, manifest
    from blockenc.sealing.seal_file import MAGIC as SEAL_MAGIC

    if path.exists() and not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: is neither a file nor a folder")
    if path.is_dir():
        return _table(str(path / manifest.MANIFEST), _manifest_rows(manifest.read_folder(path)))
    kind = next((kind for kind in formats.FORMATS if kind.names(path.name)), None)
    if kind is not None and (kind is formats.IMAGE or manifest.find_manifest(path)):
        return _table(str(path), _file_rows(path, kind))
    with open(path, "rb") as file:
        head = file.read(4096)
    if path.suffix == ".safetensors":
        return _table(str(path), _weights_rows(path))
    if head.startswith(SEAL_MAGIC):
        return _table(str(path), _seal_rows(path))
    if path.name == manifest.MANIFEST or manifest.FORMAT.encode() in head:
        return _table(str(path), _manifest_rows(manifest.Manifest.read(path)))
    return _table(str(path), _key_rows(path))


def show_scheme(name: str) -> None:
    """Print what there is to tell about a published scheme, or about one in a JSON file."""
    if name in PRESETS:
        scheme = named(name)
    elif not Path(name).is_file():
        raise ValueError(f"--scheme: expected one of {', '.join(PRESETS)}, or a JSON file, got {name!r}")
    else:
        scheme = Scheme.from_json(Path(name).read_text())
    side = -(-LARGE // scheme.side) * scheme.side
    size = (side, side) if scheme.depends_on_size else (None, None)
    of_size = f" in images of {side} x {side}" if scheme.depends_on_size else ""
    rows = {
        "kind": "scheme",
        **_scheme_rows(scheme),
        "channels": str(scheme.channels),
        "key space": f"{scheme.key_space_bits(*size):,.0f} bits{of_size}",
    }
    for n, warning in enumerate(scheme.warnings(*size), 1):
        rows[f"warning {n}"] = warning
    _table(name, rows)


def _key_rows(path: Path) -> dict[str, str]:
    from blockenc.keys import keyfile

    header = keyfile.read_header(path)
    kdf = header["kdf"]
    rows = {
        "kind": "key file" if header["format"] == keyfile.KEY.format else "key-set file",
        "fingerprint": header["fingerprint"],
        "format": f"{header['format']} version {header['version']}",
        "kdf": f"{kdf['name']} (n={kdf['n']}, r={kdf['r']}, p={kdf['p']})",
        "cipher": header["cipher"]["name"],
    }
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        rows["warning"] = f"others may read or change this file (mode {mode:03o}): chmod 600 it"
    return rows


def _weights_rows(path: Path) -> dict[str, str]:
    from blockenc.nn.saving import FINGERPRINT, SCHEME, VERSION
    from blockenc.sealing.weights import SafetensorsFile

    with SafetensorsFile(path) as file:
        entries, metadata = file.entries, file.metadata or {}
    rows = {
        "kind": "weights",
        "tensors": f"{len(entries)}, of {sum(entry.size for entry in entries)} bytes",
        "types": ", ".join(dict.fromkeys(entry.dtype for entry in entries)),
    }
    if FINGERPRINT not in metadata:
        return {**rows, "protected": "not known: nothing in its metadata"}
    return {
        **rows,
        "protected": "yes, as its metadata says",
        "fingerprint": metadata[FINGERPRINT][:100],
        **_scheme_rows_of_json(metadata.get(SCHEME, "")),
        "written by": f"blockenc {metadata.get(VERSION, '')[:100]}",
        "authenticated": "no: seal the file, and anyone who changed it is found out (blockenc verify)",
    }


def _scheme_rows_of_json(text: str) -> dict[str, str]:
    """Of a scheme that anyone may have written."""
    try:
        scheme = Scheme.from_json(text)
    except (TypeError, ValueError) as error:
        return {"scheme": f"damaged ({str(error)[:200]})"}
    return {**_scheme_rows(scheme), "channels": str(scheme.channels)}


def _seal_rows(path: Path) -> dict[str, str]:
    from blockenc.sealing.seal_file import SealFile

    with SealFile(path) as sealed:
        head = sealed.head
    of = {"file": "a safetensors file", "state_dict": "a state_dict"}[head.source]
    return {
        "kind": f"seal of {of}",
        "fingerprint": head.fingerprint,
        "tensors": f"{len(head.entries)}, of {sum(entry.size for entry in head.entries)} bytes",
        "chunks": f"{sum(head.counts())}, of {head.chunk_bytes} bytes at most",
        "authenticated": "with the key only: verify checks it, inspect cannot",
    }


def _manifest_rows(manifest: Manifest) -> dict[str, str]:
    sizes, kinds = Counter[tuple[int, int, int]](), Counter[str]()
    for item in manifest.items():
        kinds[item.format] += 1
        sizes.update(picture[:3] for picture in item.images)
    shown = [f"{n} of {w} x {h} x {c}" for (w, h, c), n in sizes.most_common(5)]
    return {
        "kind": "encrypted images",
        "fingerprint": manifest.fingerprint,
        **_encryption_rows(manifest),
        "files": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "images": str(sizes.total()),
        "authenticated": _authentication(manifest),
        "sizes": ", ".join(shown) + (", ..." if len(sizes) > len(shown) else ""),
    }


def _authentication(manifest: Manifest) -> str:
    from blockenc.datasets.manifest import UNTAGGED

    if manifest.version == UNTAGGED:
        return f"no: version {UNTAGGED} has no tag, and anyone may have changed it"
    return "with the key only: decrypt checks it, inspect cannot"


def _scheme_rows(scheme: Scheme) -> dict[str, str]:
    name = name_of(scheme)
    return {
        **({} if name is None else {"scheme": name}),
        "block size": str(scheme.block_size),
        "steps": ", ".join(map(_step_text, scheme.steps)),
        "ffx": scheme.ffx,
    }


def _encryption_rows(manifest: Manifest) -> dict[str, str]:
    return {
        **_scheme_rows(manifest.scheme),
        "fit": manifest.fit,
        "pictures": str(manifest.reading.coding),
        "keys": "one for each image, by its path" if manifest.per_image else "one for all images",
    }


def _step_text(step: str | Step) -> str:
    """As --steps of encrypt takes it."""
    if isinstance(step, str):
        return step
    fields = step.to_dict()
    return ":".join([fields.pop("kind"), *(f"{name}={value}" for name, value in fields.items())])


def _file_rows(path: Path, kind: Format) -> dict[str, str]:
    from blockenc.datasets import manifest, pictures

    rows = {"kind": kind.name}
    if kind.name == "image":
        size, mode = pictures.image_header(path)
        rows = {**rows, "size": f"{size[0]} x {size[1]}", "mode": mode}
    found = manifest.find_manifest(path)
    if found is None:
        return {**rows, "encrypted": "not known: no manifest beside it"}
    owner, item = found
    if item is None:
        return {**rows, "encrypted": f"not listed in {owner.paths[0]}"}
    many = len(item.images) != 1
    original = f"{len(item.images)} images" if many else "{} x {}".format(*next(iter(item.images)))
    return {
        **rows,
        "encrypted": f"yes, by {owner.paths[0]}",
        "authenticated": _authentication(owner),
        "fingerprint": owner.fingerprint,
        **_encryption_rows(owner),
        "original": f"{item.source}, {original}",
    }


def _table(title: str, rows: dict[str, str]) -> None:
    table = Table(title=Text(printable(title)), show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(Text(name), Text(printable(value), overflow="fold"))
    Console().print(table)
