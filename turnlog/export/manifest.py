"""What a folder of exported files holds: which files, of which rows, up to which position of the log."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from turnlog.errors import TurnlogError, UsageError

NAME = "manifest.json"
_FORMAT = 1
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file that is whole."""

    path: str  #: relative to the folder
    table: str
    day: str  #: UTC, of its rows
    rows: int
    bytes: int
    sha256: str
    state: str = ""  #: a digest of the rows, where they may change; a day with another one is written again


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A folder's account of itself. It is written last, and replaced whole."""

    form: str  #: ``parquet``, ``jsonl`` or ``openai``
    projection_version: int
    run: int = 0  #: exports that wrote something
    positions: dict[int, int] = field(default_factory=dict)  #: by partition: the next log offset to export
    files: tuple[ExportedFile, ...] = ()

    def with_run(self, positions: dict[int, int], written: list[ExportedFile]) -> "Manifest":
        """As it is after an export."""
        files = {file.path: file for file in (*self.files, *written)}
        kept = tuple(files[path] for path in sorted(files))
        return replace(self, run=self.run + 1, positions=positions, files=kept)


def read_manifest(folder: Path, form: str, projection_version: int) -> Manifest:
    """The folder's manifest, or that of an empty one. Raises :class:`UsageError` for a folder of something else."""
    path = folder / NAME
    try:
        raw = json.loads(path.read_bytes())
        manifest = _manifest(raw)
    except FileNotFoundError:
        return Manifest(form=form, projection_version=projection_version)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no manifest of an export ({error}): name another folder") from error
    except OSError as error:
        raise TurnlogError(f"{path} cannot be read: {error.strerror or error}") from error
    if manifest.form != form:
        raise UsageError(f"{folder} holds an export in the format {manifest.form!r}: name another folder")
    if manifest.projection_version != projection_version:
        raise UsageError(
            f"{folder} was exported from tables of version {manifest.projection_version}, the snapshot's are of "
            f"{projection_version} and may have other columns and rows: export into a new folder"
        )
    return manifest


def _manifest(raw: dict[str, Any]) -> Manifest:
    if raw["turnlog_export"] != _FORMAT:
        raise ValueError(f"its format is {raw['turnlog_export']!r}, not {_FORMAT}")
    return Manifest(
        form=raw["format"],
        projection_version=raw["projection_version"],
        run=raw["run"],
        positions={int(partition): offset for partition, offset in raw["positions"].items()},
        files=tuple(ExportedFile(**file) for file in raw["files"]),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace it, durably."""
    body = {
        "turnlog_export": _FORMAT,
        "format": manifest.form,
        "projection_version": manifest.projection_version,
        "run": manifest.run,
        "positions": {str(partition): offset for partition, offset in sorted(manifest.positions.items())},
        "files": [asdict(file) for file in manifest.files],
    }
    new = folder / f"{NAME}.tmp"
    new.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    put(new, folder / NAME)


def put(new: Path, path: Path) -> None:
    """Give a written file its name, once it is on disk."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in it are on disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
