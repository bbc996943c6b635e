"""One request and the frames that answer it: sent, sent again while nothing is heard, ended by a terminal frame."""

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from types import TracebackType, UnionType
from typing import Protocol, Self

from turnlog.client.replies import NOTHING_HEARD, Position, ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import BrokerUnreachableError, RequestTimedOutError, TurnlogError, UsageError, refusal
from turnlog_schemas.frames import RequestRefused
from turnlog_workers.base.backoff import Backoff

log = logging.getLogger(__name__)


class Line(Protocol):
    """What carries requests out and brings frames in: a :class:`turnlog.client.connection.Connection`."""

    async def send(self, request: PreparedRequest) -> Position:
        """Returns where the broker has stored the request. Raises a :class:`TurnlogError`."""
        ...

    async def register(self, exchange: "Exchange") -> None:
        """From now on frames of the request are delivered. Raises a :class:`TurnlogError`."""
        ...

    def unregister(self, exchange: "Exchange") -> None:
        """No more frames are delivered. May be called again."""
        ...


MAX_RESEND_AFTER_S = 60.0


def _seen(begun: asyncio.Future[None]) -> None:
    if not begun.cancelled():
        begun.exception()


class Exchange(ABC):
    """What every request has in common. The request is sent when somebody first waits for it.

    It is sent again, with the same id, whenever nothing was heard for ``resend_after_s``. That doubles, up to
    :data:`MAX_RESEND_AFTER_S`: the request may wait behind others, and repeating it would not help them. One that is
    dropped before its end is forgotten at its timeout, or at once by ``async with`` or :meth:`aclose`.
    """

    def __init__(
        self,
        request: PreparedRequest,
        line: Line,
        *,
        timeout_s: float,
        resend_after_s: float,
    ) -> None:
        if not 0 <= timeout_s < math.inf:
            raise UsageError(f"timeout_s must be a number of seconds from 0 on, not {timeout_s}")
        self.request_id = request.request_id
        self.key = request.key
        self.resends = 0
        self._request = request
        self._line = line
        self._timeout_s, self._resend_after_s = timeout_s, resend_after_s
        self._error: TurnlogError | None = None
        self._changed = asyncio.Event()
        self._begun: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self._waits_for = ""  # a sentence: why an answer may take long although all is well

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following. What was asked for goes on in its worker."""
        self.give_up(TurnlogError(f"{self._request.what} is not followed any more"))

    # ---- what kinds of requests differ in

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Was the frame seen that ends this request?"""

    @property
    def state(self) -> str:
        """Where it stands as far as this reader knows, in words."""
        return NOTHING_HEARD

    @abstractmethod
    def _take(self, reply: ReplyFrame) -> None:
        """Take in a frame of this request."""

    # ---- for the client

    def deliver(self, reply: ReplyFrame) -> None:
        """Take in a frame of this request, whether it counts or not."""
        self._heard_at = asyncio.get_running_loop().time()
        if self.ended:
            return
        self._take(reply)
        if self.ended:
            self._leave()
        self._notify()

    def give_up(self, error: TurnlogError) -> None:
        """End for the reader with an error, unless it has ended already."""
        if not self.ended and self._error is None:
            self._error = error
        self._leave()
        self._notify()

    # ---- mechanics

    async def _begin(self) -> None:
        """Register and send, once; whoever comes second waits for the first."""
        if self._begun is None:
            self._begun = asyncio.ensure_future(self._start())
            self._begun.add_done_callback(_seen)  # whoever waited may have given up before
        await asyncio.shield(self._begun)

    async def _until_ended(self) -> None:
        """Returns when it has ended; raises what ended the waiting instead."""
        await self._begin()
        while not self.ended:
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _leave(self) -> None:
        self._line.unregister(self)
        if self._watch is not None:
            self._watch.cancel()

    async def _start(self) -> None:
        if self._error is not None:
            raise self._error
        await self._line.register(self)
        try:
            self._heard_at = asyncio.get_running_loop().time()
            deadline = self._heard_at + self._timeout_s
            self._watch = asyncio.create_task(self._watched(deadline))
            await self._send_first(deadline)
        except BaseException as error:
            if isinstance(error, TurnlogError):
                self.give_up(error)
            else:
                self._leave()
            raise

    async def _send_first(self, deadline: float) -> None:
        """The time limit holds for this, too: a broker that is away may block it for long."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._line.send(self._request)
        except TimeoutError as error:
            how = "not answered, nor has the broker acknowledged it,"
            raise self._timed_out(self._timeout_s, how) from error

    async def _watched(self, deadline: float) -> None:
        """Nobody awaits this task: what ends it ends the exchange, too, or its reader would wait for ever."""
        try:
            await self._ask_again(deadline)
        except TurnlogError as error:
            self._end_with(error)
        except Exception as error:
            log.exception("%s: sending it again failed", self._request.what)
            self._end_with(TurnlogError(f"{self._request.what}: {type(error).__name__}: {error}"))

    def _end_with(self, error: TurnlogError) -> None:
        self._watch = None  # this very task: it ends by itself
        self.give_up(error)

    async def _ask_again(self, deadline: float) -> None:
        """Send the request again whenever nothing is heard; give up at the deadline."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._resend_after_s, max(self._resend_after_s, MAX_RESEND_AFTER_S))
        wait_s = backoff.next_delay(1)
        last_error: BrokerUnreachableError | None = None
        while True:
            wake_at = min(deadline, self._heard_at + wait_s)
            await asyncio.sleep(max(0.0, wake_at - loop.time()))
            now = loop.time()
            if now >= deadline:
                timed_out = self._timed_out(self._timeout_s)
                raise timed_out from last_error
            if now < self._heard_at + wait_s:
                continue
            self.resends += 1
            self._heard_at, wait_s = now, backoff.next_delay(self.resends + 1)
            log.info("nothing heard, sending again: %s", self._request.what)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._line.send(self._request)
            except TimeoutError:
                continue  # the deadline is here
            except BrokerUnreachableError as error:
                last_error = error
                log.warning("%s cannot be sent: %s", self._request.what, error)

    def _timed_out(self, after_s: float, how: str = "not answered") -> RequestTimedOutError:
        return RequestTimedOutError(self._timed_out_sentence(how, after_s))

    def _timed_out_sentence(self, how: str, after_s: float) -> str:
        check = "The worker may be slow or be taking over from another one."
        if self.state == NOTHING_HEARD:
            check = f"{self._waits_for}Is a worker running on these topics? `turnlog doctor` finds out."
        return (
            f"{self._request.what}: {how} after {after_s:g} s; {self.state}; sent "
            f"{_times(1 + self.resends)}. {check} Ask again with the same request id to get its answer."
        )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class Answer(Exchange):
    """A request that one frame answers."""

    def __init__(
        self,
        request: PreparedRequest,
        line: Line,
        expected: type | UnionType,
        *,
        timeout_s: float,
        resend_after_s: float,
        waits_for: str = "",
    ) -> None:
        super().__init__(request, line, timeout_s=timeout_s, resend_after_s=resend_after_s)
        self._expected = expected
        self._waits_for = f"{waits_for} " if waits_for else ""
        self._reply: ReplyFrame | None = None

    @property
    def ended(self) -> bool:
        """Is the answer here?"""
        return self._reply is not None

    def _take(self, reply: ReplyFrame) -> None:
        if isinstance(reply.frame, self._expected | RequestRefused):
            self._reply = reply

    async def reply(self) -> ReplyFrame:
        """The frame, of the expected type.

        Raises :class:`RequestRefusedError` (a subclass for some codes), :class:`RequestTimedOutError` or
        :class:`BrokerUnreachableError`.
        """
        try:
            await self._until_ended()
        finally:
            await self.aclose()
        assert self._reply is not None
        if isinstance(self._reply.frame, RequestRefused):
            raise refusal(self._reply.frame.code, self._reply.frame.reason)
        return self._reply
