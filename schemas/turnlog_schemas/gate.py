"""The compatibility gate: ``python -m turnlog_schemas.gate`` compares every current schema with every released one.

FULL_TRANSITIVE, per record type: what we write is readable by every release, and what any release wrote is readable by
us. ``avro.compatibility`` is the judge. A new record type is always fine; a released one never goes away, since the
logs hold its records. ``--release VERSION`` keeps a copy of the current schemas as that release.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

CURRENT = Path(__file__).parent / "avro"
RELEASED = Path(__file__).parent / "released"

#: Schema texts by record type, as ``events.TurnAccepted``.
Schemas = Mapping[str, str]


class GateError(ValueError):
    """The gate cannot do what it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One way in which a current schema does not go together with a released one."""

    record_type: str
    version: str
    reader: str  #: who could not read whose records
    reason: str
    path: str  #: JSON path in the reader's schema

    def __str__(self) -> str:
        return f"{self.record_type} against {self.version}: {self.reader}: {self.reason} at {self.path}"


def read_schemas(folder: Path) -> dict[str, str]:
    """The schemas of a folder of ``.avsc`` files."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.avsc"))}


def read_released(root: Path = RELEASED) -> dict[str, dict[str, str]]:
    """The schemas of every release, by version; empty before the first one."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {folder.name: read_schemas(folder) for folder in folders}


def check(current: Schemas, released: Mapping[str, Schemas]) -> list[Finding]:
    """Everything that keeps the current schemas from being released after these."""
    return [
        finding
        for version, schemas in released.items()
        for record_type, text in schemas.items()
        for finding in _compare(record_type, version, current.get(record_type), text)
    ]


def _compare(record_type: str, version: str, current: str | None, released: str) -> Iterator[Finding]:
    if current is None:
        yield Finding(
            record_type=record_type,
            version=version,
            reader="new reader, released writer",
            reason="this record type is gone, and the logs hold its records (a rename is a removal)",
            path="/",
        )
        return
    for reader_name, reader, writer in (
        ("new reader, released writer", current, released),
        ("released reader, new writer", released, current),
    ):
        for reason, path in _incompatibilities(reader, writer):
            yield Finding(record_type=record_type, version=version, reader=reader_name, reason=reason, path=path)


def _incompatibilities(reader_text: str, writer_text: str) -> Iterator[tuple[str, str]]:
    """Reasons and JSON paths why this reader cannot read what this writer writes."""
    reader: Any = parse(reader_text)
    writer: Any = parse(writer_text)
    judge: Any = ReaderWriterCompatibilityChecker
    # The judge compares names without their namespace, and promotes bytes to text although not all bytes are text.
    if reader.fullname != writer.fullname:
        yield f"name_mismatch: expected: {writer.fullname}", "/name"
    was = dict(_texts(json.loads(writer_text), ""))
    for path, kind in _texts(json.loads(reader_text), ""):
        if was.get(path, kind) != kind:
            yield f"type_mismatch: reader type: {kind} not compatible with writer type: {was[path]}", path
    result = judge().get_compatibility(reader, writer)
    if result.compatibility is not SchemaCompatibilityType.compatible:
        kinds = ", ".join(sorted({kind.value for kind in result.incompatibilities}))
        paths = sorted(result.locations - {"/"}) or ["/"]  # the root is in every merged result, and says nothing
        yield f"{kinds}: {'; '.join(sorted(result.messages))}", ", ".join(paths)


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every place that holds text or bytes."""
    if node in ("string", "bytes"):
        yield path, str(node)
    elif isinstance(node, list):
        for branch in node:
            yield from _texts(branch, path)
    elif isinstance(node, dict):
        for field in node.get("fields", ()):
            yield from _texts(field["type"], f"{path}/{field['name']}")
        for part in ("type", "items", "values"):
            yield from _texts(node.get(part), path)


def release(version: str, root: Path = RELEASED, current: Path = CURRENT) -> Path:
    """Keep the current schemas as those of a version. Raises :class:`GateError` rather than change a release."""
    folder = root / version
    if folder.exists():
        raise GateError(f"{version} is released already ({folder}): a release never changes, take a new version")
    findings = check(read_schemas(current), read_released(root))
    if findings:
        raise GateError(f"not compatible with a release: {findings[0]}; run: python -m turnlog_schemas.gate")
    folder.mkdir(parents=True)
    for record_type, text in read_schemas(current).items():
        (folder / f"{record_type}.avsc").write_text(text, encoding="utf-8")
    return folder


def main(argv: Sequence[str] | None = None, root: Path = RELEASED, current: Path = CURRENT) -> int:
    """Exit code 0: compatible, or the release is kept; 1: not, with the reasons on stderr."""
    parser = argparse.ArgumentParser(prog="python -m turnlog_schemas.gate", description=__doc__)
    parser.add_argument("--release", metavar="VERSION", help="keep the current schemas as those of this version")
    version = parser.parse_args(argv).release
    try:
        if version is not None:
            print(f"kept in {release(version, root, current)}")
            return 0
    except GateError as error:
        print(error, file=sys.stderr)
        return 1
    schemas, released = read_schemas(current), read_released(root)
    findings = check(schemas, released)
    for finding in findings:
        print(finding, file=sys.stderr)
    if not findings:
        versions = ", ".join(released) or "no release yet, so nothing to compare with"
        print(f"{len(schemas)} schemas are compatible with: {versions}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
