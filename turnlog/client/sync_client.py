"""The client without ``await``, for scripts and notebooks: the same code on an event loop in a background thread."""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from turnlog.client.async_client import Client
from turnlog.client.background import BackgroundLoop
from turnlog.client.chat_turn import ChatTurn
from turnlog.client.replies import FinishedTurn, ReplyFrame, TurnView
from turnlog.errors import TurnlogError
from turnlog_workers.base.config import Settings

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_Verb = Callable[Concatenate["SyncClient", P], R]


def _waits(verb: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]]) -> _Verb[P, R]:
    """The same verb, with the same arguments, that returns when it is done."""

    @functools.wraps(verb)
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop_now().wait(verb(self._client, *args, **kwargs))

    return call


class Stream(Generic[T]):
    """An async iterator, read from a thread. Dropped before its end, it is closed by ``with`` or :meth:`close`."""

    def __init__(self, loop: BackgroundLoop, items: AsyncIterator[T]) -> None:
        self._loop = loop
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        for item in self._loop.wait(self._next()):
            return item
        raise StopIteration

    async def _next(self) -> list[T]:
        """The next one in a list; an empty list at the end (what ends an iteration cannot leave a coroutine)."""
        async for item in self._items:
            return [item]
        return []

    def close(self) -> None:
        """Stop reading."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            self._loop.wait(close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncTurn(Stream[ReplyFrame]):
    """The reply frames of one turn as they come (``for reply in turn``), and how it ended (:meth:`result`)."""

    def __init__(self, loop: BackgroundLoop, turn: ChatTurn) -> None:
        super().__init__(loop, turn)
        self._turn = turn
        self.request_id = turn.request_id
        self.session_id = turn.session_id

    @property
    def view(self) -> TurnView:
        """What the frames add up to so far."""
        return self._turn.view

    def result(self, *, timeout_s: float | None = None) -> FinishedTurn:
        """See :meth:`turnlog.ChatTurn.result`."""
        return self._loop.wait(self._turn.result(timeout_s=timeout_s))


def _streams(verb: Callable[Concatenate[Client, P], AsyncIterator[T]]) -> _Verb[P, Stream[T]]:
    """The same verb, with the same arguments, that can be iterated over."""

    @functools.wraps(verb)
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return Stream(self._loop_now(), verb(self._client, *args, **kwargs))

    return call


def _chats(verb: Callable[Concatenate[Client, P], ChatTurn]) -> _Verb[P, SyncTurn]:
    """The same verb, with the same arguments, whose turn waits in a thread."""

    @functools.wraps(verb)
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> SyncTurn:
        return SyncTurn(self._loop_now(), verb(self._client, *args, **kwargs))

    return call


class SyncClient:
    """:class:`turnlog.Client` for code without an event loop: ``with SyncClient() as client: client.get("web-1")``.

    The same arguments, verbs, results and errors. In a notebook: ``client = SyncClient().open()``, at the end
    ``client.close()``. Several threads may use it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        bootstrap_server: str | None = None,
        prefix: str | None = None,
        **options: Any,
    ) -> None:
        """The arguments are those of :class:`turnlog.Client`."""
        self._client = Client(settings, bootstrap_server=bootstrap_server, prefix=prefix, **options)
        self.settings = self._client.settings
        self._loop: BackgroundLoop | None = None

    def open(self) -> Self:
        """Connect. Raises :class:`BrokerUnreachableError`, or :class:`NotFoundError` when the topics are not there."""
        if self._loop is None:
            loop = BackgroundLoop()
            try:
                loop.wait(self._client.__aenter__())
            except BaseException:
                loop.close()
                raise
            self._loop = loop
        return self

    def close(self) -> None:
        """Disconnect and end the thread. Turns that are still followed end for their readers with an error."""
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                loop.wait(self._client.aclose())
            finally:
                loop.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def failure(self) -> TurnlogError | None:
        """See :attr:`turnlog.Client.failure`."""
        return self._client.failure

    create = _waits(Client.create)
    get = _waits(Client.get)
    resolve = _waits(Client.resolve)
    rotate = _waits(Client.rotate)
    archive = _waits(Client.archive)
    active = _waits(Client.active)
    history = _waits(Client.history)
    compact = _waits(Client.compact)
    cancel = _waits(Client.cancel)
    hide_turn = _waits(Client.hide_turn)
    update = _waits(Client.update)
    erase = _waits(Client.erase)
    reset_runner = _waits(Client.reset_runner)
    enqueue = _waits(Client.enqueue)
    list_sessions = _waits(Client.list_sessions)
    set_setting = _waits(Client.set_setting)
    get_settings = _waits(Client.get_settings)

    messages = _streams(Client.messages)
    follow = _streams(Client.follow)
    chat = _chats(Client.chat)

    def _loop_now(self) -> BackgroundLoop:
        if self._loop is None:
            raise TurnlogError("the client is not connected: use it in `with SyncClient() as client:`, or open() it")
        return self._loop
