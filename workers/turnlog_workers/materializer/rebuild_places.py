"""Where a rebuild puts its files, beside the live one."""

from pathlib import Path


def unfinished_of(live: Path) -> Path:
    """Where the file is made that shall take a live file's place."""
    return live.with_name(f"{live.stem}.rebuild{live.suffix}")


def rebuilt_of(live: Path) -> Path:
    """Where it waits when it is whole."""
    return live.with_name(f"{live.stem}.rebuilt{live.suffix}")


def parts_of(path: Path) -> Path:
    """The folder in which a file is made in parts."""
    return path.with_name(f".{path.name}.parts")


def temp_of(path: Path) -> Path:
    """The folder for what does not fit into memory while a file is made."""
    return path.with_name(f".{path.name}.temp")
