"""Commands that run a process of Turnlog: the development stack, a worker, the materializer."""

from collections.abc import Mapping
from typing import Annotated

import typer

from turnlog.cli import output
from turnlog.cli.common import Bootstrap, DataDir, Prefix, Verbose, client_settings, resolve_settings

topics_app = typer.Typer(help="Make and check the topics.", no_args_is_help=True)


def up(
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Worker processes.")] = 2,
    data_dir: DataDir = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="Kafka's. Default: the one used before, else 9092, else a free one.",
            show_default=False,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Run a whole development stack here: Kafka, workers, materializer. Ctrl-C stops it.

    The first start fetches Kafka (45 MB). Other commands in the same folder find the stack by themselves.
    """
    settings = resolve_settings(data_dir=data_dir)
    import asyncio

    from workers import stack

    asyncio.run(stack.up(settings.data_dir, workers=workers, port=port, init_topics=init_stack_topics, say=output.say))


def init_stack_topics(variables: Mapping[str, str]) -> None:
    """Create the topics of a development stack, given its children's ``TURNLOG_...`` variables."""
    from workers.config import Settings
    from workers.topics_admin import init_topics

    values = {name.removeprefix("TURNLOG_").lower(): value for name, value in variables.items()}
    init_topics(Settings(**values))  # type: ignore[arg-type]


def worker(
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Run one worker until SIGTERM or Ctrl-C. Several share the partitions.

    All its settings are TURNLOG_... variables; it serves the models that TURNLOG_ALLOW_MODELS names (default: echo:*).
    """
    settings = resolve_settings(bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix)
    from workers import logs
    from workers.app import run_worker

    logs.set_up(settings)
    raise typer.Exit(run_worker(settings))


def materialize(
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Keep the analysts' DuckDB file up to date and publish snapshots of it, until SIGTERM or Ctrl-C."""
    settings = resolve_settings(bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix)
    from workers import logs
    from workers.materializer import run_materializer

    logs.set_up(settings)
    raise typer.Exit(run_materializer(settings))


@topics_app.command("init")
def topics_init(
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Create the topics that are missing, and check that all are as they must be. Safe to repeat."""
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    from workers.topics_admin import init_topics

    init_topics(settings)
    output.say(f"The topics {settings.prefix}.* on {settings.bootstrap_server} are as they must be.")
