"""Tools of servers that speak the Model Context Protocol, revision 2026-07-28 or older, over a process or HTTP.

A server is started when a turn first may use a tool of it, asked again for its tools now and then, and started again
when it has died. What goes wrong with it is the result of a call, never the end of a turn. Needs the extra ``mcp``.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from turnlog_workers.base.logs import keep_secret, without_known_secrets
from turnlog_workers.base.mcp_settings import McpServer
from turnlog_workers.base.model_servers import KeyUnavailableError
from turnlog_workers.base.tasks import was_cancelled
from turnlog_workers.runners.base import ToolDefinition
from turnlog_workers.runners.checked import one_line, type_name
from turnlog_workers.tools.base import NAME, Tool, ToolContext, ToolError, ToolLimits

if TYPE_CHECKING:
    from mcp import Client

log = logging.getLogger(__name__)
SEPARATOR = "__"  #: between the name of a server and that of its tool
MAX_TOOLS = 100  #: of one server
_MAX_PAGES = 20
_MAX_DESCRIPTION_CHARACTERS = 4_000
_MAX_SCHEMA_BYTES = 64 * 1024
_FRESH_S = 300.0  #: how long a list of tools is believed
_PAUSE_S = 10.0  #: after a server could not be asked, before it is tried again
_CLOSE_S = 5.0


class ServerGoneError(Exception):
    """The server cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpTool:
    """A tool of a server."""

    definition: ToolDefinition
    limits: ToolLimits
    blocking: bool
    server: "McpConnection"
    name: str  #: what the server calls it

    def bind(self, arguments: str, context: ToolContext) -> Callable[[], Awaitable[object]]:
        """The call; the server checks the arguments against its schema. Raises :class:`ToolError`."""
        try:
            given = json.loads(arguments if arguments.strip() else "{}")
        except (ValueError, RecursionError) as error:
            raise ToolError("the arguments are no JSON") from error
        if not isinstance(given, dict):
            raise ToolError("the arguments are no JSON object")
        return partial(self.server.call, self.name, given, context)


class McpConnection:
    """One server: a task holds the connection, whoever calls a tool uses it."""

    def __init__(self, name: str, server: McpServer, connect_s: float) -> None:
        self.name = name
        self._server = server
        self._connect_s = connect_s
        self._holder: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._leave = asyncio.Event()
        self._lock = asyncio.Lock()
        self._tools: tuple[McpTool, ...] = ()
        self._listed_at = self._failed_at = -float("inf")

    async def tools(self) -> tuple[McpTool, ...]:
        """Its tools, as it told last; none, if it cannot be asked."""
        now = time.monotonic()
        if now - self._listed_at < _FRESH_S or now - self._failed_at < _PAUSE_S:
            return self._tools
        try:
            async with asyncio.timeout(self._connect_s):
                self._tools = await self._listed(await self._connected())
            self._listed_at = time.monotonic()
        except BaseException as error:
            if was_cancelled(error):
                raise
            self._failed_at = time.monotonic()
            await self._drop()
            hint = "; run its command by hand to see what it says" if self._server.command else ""
            log.warning("the tools of the server %s cannot be listed: %s%s", self.name, _why(error), hint)
        return self._tools

    async def call(self, tool: str, arguments: dict[str, Any], context: ToolContext) -> str:
        """Call a tool. Raises :class:`ToolError` with what it says, or that the server is gone."""
        try:
            async with asyncio.timeout(self._connect_s) as waiting:
                client = await self._connected()
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise ToolError(f"the server {self.name} of this tool did not answer") from error
        except ServerGoneError as error:
            raise ToolError(f"the server {self.name} of this tool cannot be reached") from error
        meta: Any = {  # to which its library adds the traceparent of the span that is current
            "turnlog/idempotency-key": context.idempotency_key,
            "turnlog/fencing-token": context.fencing_token,
        }
        try:
            result = await client.call_tool(tool, arguments, meta=meta)
        except BaseException as error:
            if was_cancelled(error):
                raise
            from mcp.shared.exceptions import MCPError
            from mcp_types import CONNECTION_CLOSED

            if isinstance(error, MCPError) and error.error.code != CONNECTION_CLOSED and not self._is_gone(client):
                raise ToolError(f"the server {self.name} refuses the call: {_said(error, 500)}") from error
            self._listed_at = -float("inf")
            await self._drop()
            log.warning("the server %s failed in a call of %s: %s", self.name, tool, _why(error))
            reason = f"the server {self.name} failed in the middle of the call; it may have done what it was asked for"
            raise ToolError(reason) from error
        text = _text_of(result)
        if result.is_error:
            raise ToolError(text or "the tool failed")
        return text

    async def aclose(self) -> None:
        """End the connection, and the process."""
        await self._drop()

    def _is_gone(self, client: "Client") -> bool:
        return self._client is not client or self._holder is None or self._holder.done()

    async def _connected(self) -> "Client":
        async with self._lock:
            if self._client is not None and not self._is_gone(self._client):
                return self._client
            await self._drop()
            ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
            self._leave = asyncio.Event()
            self._holder = asyncio.create_task(self._hold(ready, self._leave), name=f"tool server {self.name}")
            try:
                self._client = await ready
            except BaseException:
                await self._drop()
                raise
            return self._client

    async def _hold(self, ready: "asyncio.Future[Client]", leave: asyncio.Event) -> None:
        """Enter and leave the connection in one task, as its library demands."""
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._made(stack))
                if not ready.done():
                    ready.set_result(client)
                await leave.wait()
        except BaseException as error:
            if not ready.done() and not was_cancelled(error):
                ready.set_exception(ServerGoneError(_why(error)))
            elif was_cancelled(error):
                ready.cancel()
                raise
            else:
                log.warning("the connection to the tool server %s ended: %s", self.name, _why(error))

    async def _made(self, stack: AsyncExitStack) -> "Client":
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client

        if self._server.command:
            program, *arguments = self._server.command
            given = {name: os.environ[name] for name in self._server.env_from if name in os.environ}
            silent = stack.enter_context(_nowhere())  # what it says may hold secrets
            parameters = StdioServerParameters(command=program, args=arguments, env=given)
            return Client(stdio_client(parameters, errlog=silent))
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        headers: dict[str, str] = {}
        if self._server.key is not None:
            try:
                key = self._server.key.read()
            except KeyUnavailableError as error:
                raise ServerGoneError(str(error)) from error
            keep_secret(key)
            headers["Authorization"] = f"Bearer {key}"
        timeout = httpx2.Timeout(None, connect=self._connect_s)
        client = httpx2.AsyncClient(headers=headers, timeout=timeout, follow_redirects=False)
        http = await stack.enter_async_context(client)
        return Client(streamable_http_client(self._server.url, http_client=http))

    async def _drop(self) -> None:
        holder, self._holder, self._client = self._holder, None, None
        if holder is None:
            return
        self._leave.set()
        await asyncio.wait((holder,), timeout=_CLOSE_S)
        if not holder.done():
            holder.cancel()
            await asyncio.wait((holder,), timeout=_CLOSE_S)

    async def _listed(self, client: "Client") -> tuple[McpTool, ...]:
        found: dict[str, McpTool] = {}
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for told in page.tools:
                tool = self._tool(told)
                if tool is not None and len(found) < MAX_TOOLS:
                    found.setdefault(tool.definition.name, tool)
            cursor = page.next_cursor
            if cursor is None:
                break
        return tuple(found.values())

    def _tool(self, told: Any) -> McpTool | None:
        name = f"{self.name}{SEPARATOR}{told.name}"
        schema = dict(told.input_schema)
        if not NAME.fullmatch(name) or len(json.dumps(schema)) > _MAX_SCHEMA_BYTES:
            log.warning("a tool of the server %s is not used: its name or its schema is too long or odd", self.name)
            return None
        hints = told.annotations
        idempotent = hints is not None and bool(hints.idempotent_hint or hints.read_only_hint)
        definition = ToolDefinition(
            name=name,
            description=(told.description or "")[:_MAX_DESCRIPTION_CHARACTERS],
            parameters=schema,
            idempotent=idempotent,
        )
        return McpTool(definition=definition, limits=ToolLimits(), blocking=False, server=self, name=told.name)


class McpServers:
    """The servers of the settings, as a source of tools."""

    def __init__(self, servers: Mapping[str, McpServer], *, connect_s: float) -> None:
        self._connections = [McpConnection(name, server, connect_s) for name, server in servers.items()]
        self._told = False

    async def tools(self, wanted: Callable[[str], bool], may_want_some: Callable[[str], bool]) -> Sequence[Tool]:
        """The tools of the names that are wanted, of all servers that answer; they are asked side by side."""
        asked = [each for each in self._connections if may_want_some(f"{each.name}{SEPARATOR}")]
        if asked and find_spec("mcp") is None:
            if not self._told:
                self._told = True
                log.error("TURNLOG_MCP_SERVERS needs the extra: pip install 'turnlog[mcp]'")
            return ()
        found = await asyncio.gather(*(connection.tools() for connection in asked))
        return [tool for tools in found for tool in tools if wanted(tool.definition.name)]

    async def aclose(self) -> None:
        """End all connections."""
        await asyncio.gather(*(connection.aclose() for connection in self._connections))


@contextmanager
def _nowhere() -> Iterator[TextIO]:
    with open(os.devnull, "w") as nowhere:
        yield nowhere


def _text_of(result: Any) -> str:
    """What a model reads of a result: its texts; of anything else what it is."""
    pieces = []
    for part in result.content:
        if part.type == "text":
            pieces.append(part.text)
        elif part.type == "resource" and isinstance(getattr(part.resource, "text", None), str):
            pieces.append(part.resource.text)
        else:
            pieces.append(f"[{part.type} {getattr(part, 'mime_type', None) or getattr(part, 'uri', '')}]")
    if not pieces and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(pieces)


def _said(error: BaseException, characters: int) -> str:
    """Its words, cut after its secrets are out."""
    return one_line(without_known_secrets(str(error)[: 8 * characters]), characters)


def _why(error: BaseException) -> str:
    """What happened, for the operator's log; of a group of errors the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it took too long"
    return f"{type_name(error)}: {_said(error, 200)}"
