"""``turnlog settings``: what can be changed while the workers run."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, refuse_unservable
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.errors import UsageError
from turnlog.terminal import output

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

settings_app = typer.Typer(
    help="Settings that every worker follows within a second. "
    "default-model, default-model/CHANNEL, fast-model, runner/PROVIDER, saved-query/NAME; "
    "unset ones are as the worker was started.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="For example default-model or default-model/CHANNEL.")]


@settings_app.command("set")
def set_(
    name: Name,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="For example echo:")],
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Set a run-time setting. Sessions with a live runner follow at their next reset, or once it is idle."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    from turnlog_streams.runtime_settings import names_model

    if names_model(name):
        refuse_unservable(settings, value)
    _refuse_unknown_runner(name, value)
    _write(settings, name, value, json=json)


@settings_app.command("unset")
def unset(
    name: Name,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Go back to what the workers were started with."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    _write(settings, name, None, json=json)


@settings_app.command("list")
def list_(
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """List the run-time settings that are set."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    values = asyncio.run(_read(settings))
    if json:
        output.print_json(values)
    elif not values:
        output.say("No run-time settings are set: every worker does what it was started with.")
    else:
        output.print_table(("setting", "value"), sorted(values.items()))


def _refuse_unknown_runner(name: str, value: str) -> None:
    """A provider or an entry point that does not exist would be found out by the next turn that fails."""
    from turnlog_streams.runtime_settings import RUNNER
    from turnlog_workers.runners.registry import RunnerRegistry

    kind, _, provider = name.partition("/")
    if kind != RUNNER or not provider:
        return
    existing = RunnerRegistry().providers()
    unknown = [given for given in (provider, value) if given not in existing]
    if unknown:
        raise UsageError(
            f"{name}: there is no runner {unknown[0]!r} here; there are: {', '.join(existing)}. A runner that only the "
            "workers have is set from where they are installed."
        )


def _write(settings: "Settings", name: str, value: str | None, *, json: bool) -> None:
    async def write() -> None:
        from turnlog.client.async_client import Client

        async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
            await client.set_setting(name, value)

    asyncio.run(write())
    if json:
        output.print_json({"name": name, "value": value})
    else:
        output.say(f"{name} is {'unset' if value is None else value}")


async def _read(settings: "Settings") -> dict[str, str]:
    from turnlog.client.async_client import Client

    async with Client(settings, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
        return await client.get_settings()
