"""``turnlog config``: what each setting is here, and where that comes from."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, resolve_settings, say_unknown_variables
from turnlog.terminal import output
from turnlog_workers.base.counted import counted

if TYPE_CHECKING:
    from turnlog_workers.base.shown_settings import ShownSetting


class ProcessKind(StrEnum):
    """Whose settings are shown."""

    WORKER = "worker"
    MATERIALIZER = "materializer"
    GATEWAY = "gateway"
    ALL = "all"


def config(
    of: Annotated[
        ProcessKind,
        typer.Argument(metavar="[worker|materializer|gateway|all]", help="Whose settings."),
    ] = ProcessKind.ALL,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those that are not left at their defaults.", show_default=False)
    ] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show each setting as a process started here would have it: its value, where that comes from, the default.

    Asks nobody: a process that runs has what was set when it was started. What is secret is hidden.
    """
    from turnlog_workers.base.shown_settings import is_of, shown_settings

    as_the_stack = of is ProcessKind.GATEWAY
    options = {"bootstrap_server": bootstrap_server, "data_dir": data_dir, "prefix": prefix}
    settings = resolve_settings(
        bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix, as_the_stack=as_the_stack
    )
    say_unknown_variables(settings)
    named = frozenset(name for name, value in options.items() if value is not None)
    shown = [
        each
        for name, each in shown_settings(settings, named, os.environ)
        if is_of(name, of) and not (changed and each.source == "default")
    ]
    if json:
        output.print_json({each.name: _document(each) for each in shown})
        return
    if not shown:
        output.say("Every setting is at its default.")
        return
    rows = [(each.name, each.value, f"{each.source} {each.where}".rstrip(), each.default) for each in shown]
    output.print_table(("setting", "value", "source", "default"), rows)
    output.say(f"{counted(len(rows), 'setting')}; docs/settings.md says what they mean")


def _document(shown: "ShownSetting") -> dict[str, Any]:
    return {"value": shown.value, "source": shown.source, "where": shown.where or None, "default": shown.default}
