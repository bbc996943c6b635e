"""What each role needs where Kafka has an authorizer: one table, which is printed, documented and tested.

A client may Describe what it may Read or Write: Kafka derives that right.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnlog_workers.base.config import Settings

#: The roles in the order in which they are told, and who has them.
ROLES: Mapping[str, str] = {
    "operator": "who makes the topics, and looks and mends with the other commands",
    "worker": "`turnlog worker`",
    "materializer": "`turnlog materialize`, `turnlog verify`, `turnlog rebuild`",
    "gateway": "`turnlog serve`",
    "producer": "a program that sends; one that chats is a reader, too",
    "reader": "a program that reads frames",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """What a role may do with one topic or group."""

    role: str
    operations: tuple[str, ...]  #: as kafka-acls.sh names them
    kind: str  #: ``topic`` or ``group``
    name: str
    prefixed: bool = False  #: whatever begins with the name


def rights(settings: Settings) -> tuple[Right, ...]:
    """All rights of all roles, for the topics and the group of these settings."""
    topics = settings.topics
    requests, events, replies = topics.requests, topics.events, topics.replies
    schemas, run_time, parked = topics.schemas, topics.settings, topics.dead_letters
    keys = (topics.keys,) if settings.seal_texts else ()
    names = (*topics.all, *keys)
    looks = dict.fromkeys(names, ("Describe", "DescribeConfigs"))
    by_role: dict[str, list[Mapping[str, tuple[str, ...]]]] = {
        "operator": [
            dict.fromkeys(names, ("Create",)),
            looks,
            dict.fromkeys(topics.all, ("Read",)),
            dict.fromkeys((requests, run_time, parked), ("Write",)),
        ],
        "worker": [
            looks,
            dict.fromkeys((requests, events, schemas, *keys), ("Read", "Write")),
            {run_time: ("Read",), parked: ("Write",)},
        ],
        "materializer": [looks, dict.fromkeys((events, schemas, parked, *keys), ("Read",))],
        "gateway": [
            dict.fromkeys((events, replies, schemas), ("Read",)),
            dict.fromkeys((requests, run_time), ("Read", "Write")),
        ],
        "producer": [{requests: ("Write",)}],
        "reader": [dict.fromkeys((replies, schemas), ("Read",))],
    }
    found: list[Right] = []
    for role in ROLES:
        for name in names:
            operations = tuple(each for part in by_role[role] for each in part.get(name, ()))
            if operations:
                found.append(Right(role=role, operations=operations, kind="topic", name=name))
        if role == "worker":  # the topics that requests may name for their replies, the default one among them
            found.append(
                Right(role=role, operations=("Write",), kind="topic", name=settings.reply_prefix, prefixed=True)
            )
            found.append(Right(role=role, operations=("Read",), kind="group", name=settings.group_id))
        if role == "operator":
            found.append(Right(role=role, operations=("Describe",), kind="group", name=settings.group_id))
    return tuple(found)


def acl_lines(
    settings: Settings, roles: Sequence[str], principals: Mapping[str, str], *, command_config: str | None = None
) -> Iterator[str]:
    """Lines for a shell that give roles their rights; ``principals``: who has a role, else ``User:ROLE``."""
    head = ["kafka-acls.sh", "--bootstrap-server", settings.bootstrap_server]
    if command_config:
        head += ["--command-config", command_config]
    for right in rights(settings):
        if right.role not in roles:
            continue
        words = [*head, "--add", "--allow-principal", principals.get(right.role, f"User:{right.role}")]
        for operation in right.operations:
            words += ["--operation", operation]
        words += [f"--{right.kind}", right.name]
        if right.prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        yield shlex.join(words)


def rights_table(settings: Settings) -> str:
    """The rights as a Markdown table, for the docs."""
    lines = ["| role | who | topics | group |", "|---|---|---|---|"]
    for role, who in ROLES.items():
        cells = []
        for kind in ("topic", "group"):
            by_operations: dict[tuple[str, ...], list[str]] = {}
            for right in rights(settings):
                if (right.role, right.kind) == (role, kind):
                    names = by_operations.setdefault(right.operations, [])
                    names.append(f"`{right.name}{'*' if right.prefixed else ''}`")
            told = (f"{', '.join(operations)} on {', '.join(names)}" for operations, names in by_operations.items())
            cells.append("; ".join(told))
        lines.append(f"| {role} | {who} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"
