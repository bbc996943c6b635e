"""Saved SQL: run-time settings ``saved-query/NAME``, a bounded number of bounded size, the same for every gateway."""

import re

from turnlog.errors import TurnlogError, UsageError
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import HttpError
from turnlog_schemas.commands import ID_PATTERN
from turnlog_streams.runtime_settings import query_setting, saved_queries

MAX_QUERIES = 100


async def saved(gateway: Gateway) -> tuple[dict[str, str], str]:
    """The queries by name; or none, and why."""
    try:
        return saved_queries(await gateway.client.get_settings()), ""
    except TurnlogError as error:
        return {}, f"The saved queries cannot be read: {error}"
    except HttpError as error:  # no connection to Kafka: the snapshot can be asked all the same
        return {}, f"The saved queries cannot be read: {error.message}"


async def save(gateway: Gateway, name: str, statement: str) -> None:
    """Keep a query under a name, in place of one that has it. Raises :class:`UsageError`, or as the client does."""
    _check(name)
    known = saved_queries(await gateway.client.get_settings())
    if name not in known and len(known) >= MAX_QUERIES:
        raise UsageError(f"{MAX_QUERIES} queries are saved, and no more may be: delete one first.")
    await gateway.client.set_setting(query_setting(name), statement)


async def delete(gateway: Gateway, name: str) -> None:
    """Forget a query; one that is not there is forgotten already."""
    _check(name)
    await gateway.client.set_setting(query_setting(name), None)


def _check(name: str) -> None:
    if not re.fullmatch(ID_PATTERN, name):
        raise UsageError("The name of a query is 1 to 128 characters of A-Z a-z 0-9 . _ -")
