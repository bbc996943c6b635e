"""The frames of a session as they come, from a place in the reply topic on that is fixed before anything is sent."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from turnlog.client.async_client import Client
from turnlog.client.raw_requests import follow_frames, frames_between
from turnlog.client.replies import ReplyFrame


@contextlib.asynccontextmanager
async def session_frames(
    client: Client, session_id: str, start: int | None = None, until: int | None = None
) -> AsyncIterator[AsyncIterator[ReplyFrame]]:
    """All frames of the session behind ``start`` (an offset; absent: from now on), those that do not count too.

    Without end, or with ``until`` to the record before that offset. Raises a :class:`TurnlogError`.
    """
    if until is not None:
        async with contextlib.aclosing(frames_between(client, session_id, start or 0, until)) as frames:
            yield frames
        return
    following = follow_frames(client, session_id, start)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)  # it runs up to where it waits: from here on nothing is missed
    try:
        yield _with_first(first, following)
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await following.aclose()


async def _with_first(
    first: asyncio.Future[ReplyFrame], rest: AsyncGenerator[ReplyFrame, None]
) -> AsyncGenerator[ReplyFrame, None]:
    yield await first
    async for reply in rest:
        yield reply
