"""The application: all commands under one name."""

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from turnlog.cli import processes, proof
from turnlog.cli.acls import acls_app
from turnlog.cli.chat import chat
from turnlog.cli.common import VERBOSE
from turnlog.cli.config import config
from turnlog.cli.dead_letters import dead_letters_app
from turnlog.cli.doctor import doctor
from turnlog.cli.examples import add_examples
from turnlog.cli.exits import explain
from turnlog.cli.export import export
from turnlog.cli.feed import feed
from turnlog.cli.lag import lag
from turnlog.cli.models import models_app
from turnlog.cli.report import report
from turnlog.cli.run_settings import settings_app
from turnlog.cli.sessions import sessions_app
from turnlog.cli.sql import sql
from turnlog.cli.tail import tail
from turnlog.cli.talk import send
from turnlog.terminal import output

_PASS_ON = (typer.Exit, typer.Abort, typer.TyperException, KeyboardInterrupt, BrokenPipeError)


class Commands(TyperGroup):
    """A group whose commands end with an exit code and one sentence, not with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except _PASS_ON:
            raise
        except Exception as error:
            code, sentence = explain(error)
            if ctx.meta.get(VERBOSE):
                traceback.print_exc()
            output.say(f"turnlog: {sentence}")
            raise typer.Exit(code) from error


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.print_text(f"turnlog {version('turnlog')}")
        raise typer.Exit


app = typer.Typer(
    name="turnlog",
    cls=Commands,
    help="AI chat sessions as an event-sourced worker on Kafka: nothing lost, nothing twice, SQL over every session.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True, show_default=False)
    ] = False,
) -> None:
    pass


_TRY = "Try it"
_RUN = "Run it"
_TALK = "Talk to it"
_ASK = "Ask it"
_MEND = "Look after it"

app.command(rich_help_panel=_TRY)(processes.demo)
app.command(rich_help_panel=_TRY)(processes.up)
app.command(rich_help_panel=_TRY)(doctor)
app.command(rich_help_panel=_TALK)(chat)
app.command(rich_help_panel=_TALK)(send)
app.command(rich_help_panel=_TALK)(tail)
app.add_typer(sessions_app, name="sessions", rich_help_panel=_TALK)
app.command(rich_help_panel=_TALK)(feed)
app.command(rich_help_panel=_ASK)(sql)
app.command(rich_help_panel=_ASK)(export)
app.command(rich_help_panel=_ASK)(proof.verify)
app.command(rich_help_panel=_ASK)(proof.rebuild)
app.command(rich_help_panel=_ASK)(proof.diff)
app.command(rich_help_panel=_ASK)(report)
app.command(rich_help_panel=_RUN)(processes.worker)
app.command(rich_help_panel=_RUN)(processes.materialize)
app.command(rich_help_panel=_RUN)(processes.serve)
app.add_typer(models_app, name="models", rich_help_panel=_RUN)
app.add_typer(settings_app, name="settings", rich_help_panel=_RUN)
app.add_typer(processes.topics_app, name="topics", rich_help_panel=_RUN)
app.command(rich_help_panel=_MEND)(lag)
app.add_typer(dead_letters_app, name="dead-letters", rich_help_panel=_MEND)
app.command(rich_help_panel=_MEND)(config)
app.add_typer(acls_app, name="acls", rich_help_panel=_MEND)
add_examples(app)
