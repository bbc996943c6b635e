"""The load of one channel: lifecycle requests, queries and cancelled turns, each answer following from those before."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from turnlog import BrokerUnreachableError, Client, FinishedTurn, RequestRefusedError, SessionInfo, SessionNotFoundError
from turnlog_schemas.parts import content_text

_RETRY_S = 0.5
_MOST_S = 1.0  #: within which a turn is cancelled that would take longer
_LONG_TURN = "script:long?tools=1&tool_ms=300&words=120&delta_ms=10"

T = TypeVar("T")


class Talk(Protocol):
    """What a channel's load needs of the whole load."""

    problems: list[str]
    turn_timeout_s: float

    def next_number(self) -> int:
        """Of a request."""
        ...

    async def turn(
        self, client: Client, session_id: str, chance: random.Random, model: str | None = None
    ) -> FinishedTurn | None:
        """One chat and its end; ``None``: a problem, which is written down."""
        ...


class ChannelLoad:
    """One channel. Nobody else asks it for anything, so its active session is known at every time."""

    def __init__(self, load: Talk, client: Client, channel: str, chance: random.Random) -> None:
        self._load = load
        self._client = client
        self._channel = channel
        self._chance = chance
        self._active = ""  #: session id

    async def round(self) -> None:
        """A session by rotating or resolving, a chat with it, and now and then all that one can ask of both."""
        chance = self._chance
        await self._new_session()
        await self._load.turn(self._client, self._active, chance)
        if chance.random() < 0.3:
            await self._look()
        if chance.random() < 0.2:
            await self._cancel_a_turn()
        if chance.random() < 0.15:
            await self._archive()
        if chance.random() < 0.2:
            await self._ask_for_the_active_one()

    # ---- requests to the channel

    async def _new_session(self) -> None:
        rotate = self._chance.random() < 0.5
        verb = self._client.rotate if rotate else self._client.resolve
        request_id = self._request_id()

        async def ask() -> SessionInfo:
            return await verb(self._channel, request_id=request_id, timeout_s=self._load.turn_timeout_s)

        info = await self._asked(ask)
        if info.created != (rotate or not self._active) or (not info.created and info.session_id != self._active):
            self._problem(request_id, f"{info}, and {self._active!r} was the active session")
        if self._chance.random() < 0.3:
            again = await self._asked(ask)
            if again.session_id != info.session_id:
                self._problem(request_id, f"first {info}, then {again}")
        self._active = info.session_id

    async def _archive(self) -> None:
        """Every other session of the channel was archived when it was rotated away: none is active after this."""
        request_id, session_id = self._request_id(), self._active

        async def ask() -> SessionInfo:
            timeout_s = self._load.turn_timeout_s
            return await self._client.archive(session_id, self._channel, request_id=request_id, timeout_s=timeout_s)

        info = await self._asked(ask)
        if info.session_id != session_id or not info.archived:
            self._problem(request_id, f"{session_id} was to be archived: {info}")
        self._active = ""

    async def _ask_for_the_active_one(self) -> None:
        request_id = self._request_id()

        async def ask() -> SessionInfo | None:
            try:
                timeout_s = self._load.turn_timeout_s
                return await self._client.active(self._channel, request_id=request_id, timeout_s=timeout_s)
            except SessionNotFoundError:
                return None

        info = await self._asked(ask)
        if (info.session_id if info is not None else "") != self._active:
            self._problem(request_id, f"{info}, and {self._active!r} is the active session")

    # ---- requests to its session

    async def _look(self) -> None:
        """Read your writes: what was heard of is in what the owner tells."""
        session_id, timeout_s = self._active, self._load.turn_timeout_s
        told = await self._load.turn(self._client, session_id, self._chance)
        if told is None:
            return
        info = await self._asked(lambda: self._client.get(session_id, timeout_s=timeout_s))
        if (info.session_id, info.channel, info.archived, info.active) != (session_id, self._channel, False, True):
            self._problem(told.request_id, f"{info}, and it is the active session of {self._channel}")
        page = await self._asked(lambda: self._client.history(session_id, limit=1000, timeout_s=timeout_s))
        texts = [(message.role, content_text(message.content)) for message in page.messages]
        wanted = [("user", said(told.request_id))]
        if told.status == "completed":
            wanted.append(("assistant", told.text))
        if any(entry not in texts for entry in wanted) or len(texts) != info.messages:
            self._problem(told.request_id, f"{info.messages} messages; not all of {wanted} are in {texts}")

    async def _cancel_a_turn(self) -> None:
        """Cancelled if the cancel was in time, complete if it was not: never both, never neither."""
        session_id, request_id = self._active, self._request_id()
        chatting = asyncio.create_task(self._load.turn(self._client, session_id, self._chance, _LONG_TURN))
        await asyncio.sleep(self._chance.uniform(0, _MOST_S))

        async def ask() -> str:
            try:
                timeout_s = self._load.turn_timeout_s
                return (await self._client.cancel(session_id, request_id=request_id, timeout_s=timeout_s)).status
            except RequestRefusedError as error:
                return error.code

        cancelled = await self._asked(ask)
        told = await chatting
        if told is not None and (cancelled, told.status) not in {
            ("cancelled", "cancelled"),
            ("not_running", "completed"),
        }:
            self._problem(request_id, f"the cancel of {told.request_id}: {cancelled}, the turn: {told.status}")

    # ---- asking

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer; asks again while there is no broker."""
        deadline = asyncio.get_running_loop().time() + self._load.turn_timeout_s
        while True:
            try:
                return await ask()
            except BrokerUnreachableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    def _request_id(self) -> str:
        return f"c{self._load.next_number()}"

    def _problem(self, request_id: str, text: str) -> None:
        self._load.problems.append(f"{self._channel}, {request_id}: {text}")


def said(request_id: str) -> str:
    """The text of a chat of the load."""
    return f"message {request_id}"
