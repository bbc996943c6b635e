"""``turnlog acls``: the rights that Kafka must give each role."""

from enum import StrEnum
from typing import Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings
from turnlog.errors import UsageError
from turnlog.terminal import output

acls_app = typer.Typer(help="The rights of each role, where Kafka has an authorizer.", no_args_is_help=True)


class Role(StrEnum):
    """Who needs rights."""

    OPERATOR = "operator"
    WORKER = "worker"
    MATERIALIZER = "materializer"
    GATEWAY = "gateway"
    PRODUCER = "producer"
    READER = "reader"


@acls_app.command("print")
def print_(
    roles: Annotated[
        list[Role] | None,
        typer.Option(
            "--role", metavar="ROLE", help="Only this role; may be repeated. Default: all.", case_sensitive=False
        ),
    ] = None,
    principals: Annotated[
        list[str] | None,
        typer.Option(
            "--principal",
            metavar="ROLE=PRINCIPAL",
            help="Who has a role, such as worker=User:turnlog-7; may be repeated. Default: User:ROLE.",
        ),
    ] = None,
    command_config: Annotated[
        str | None,
        typer.Option("--command-config", metavar="FILE", help="For kafka-acls.sh: how an administrator logs in."),
    ] = None,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Print kafka-acls.sh lines that give each role what it needs, and no more. Asks no broker, changes nothing.

    Topics and the group are those of the settings: TURNLOG_PREFIX, TURNLOG_GROUP, TURNLOG_REPLY_TOPIC_PREFIX.
    """
    whose = _principals(principals or [])
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    from turnlog_workers.kafka.rights import acl_lines, rights

    wanted = [role.value for role in roles or Role]
    if json:
        document = [
            {
                "role": right.role,
                "principal": whose.get(right.role, f"User:{right.role}"),
                "operations": list(right.operations),
                "resource": right.kind,
                "name": right.name,
                "pattern": "prefixed" if right.prefixed else "literal",
            }
            for right in rights(settings)
            if right.role in wanted
        ]
        output.print_json(document)
        return
    for role in wanted:
        output.print_text(f"# {role}")
        for line in acl_lines(settings, [role], whose, command_config=command_config):
            output.print_text(line)


def _principals(said: list[str]) -> dict[str, str]:
    found = {}
    for each in said:
        role, _, principal = each.partition("=")
        if role not in set(Role) or ":" not in principal:
            raise UsageError(
                f"--principal {each[:80]!r}: write it as ROLE=TYPE:NAME, such as worker=User:turnlog; roles: "
                f"{', '.join(Role)}"
            )
        found[role] = principal
    return found
