"""The frames of a session as they come, from a place in the reply topic on that is fixed before anything is sent."""

import contextlib
from collections.abc import AsyncIterator, Mapping

from turnlog.client.async_client import Client
from turnlog.client.raw_requests import decode, partitions, reply_consumer
from turnlog.client.replies import ReplyFrame
from turnlog_streams.topics import partition_of


@contextlib.asynccontextmanager
async def session_frames(
    client: Client, session_id: str, start: int | None = None, until: int | None = None
) -> AsyncIterator[AsyncIterator[ReplyFrame]]:
    """All frames of the session behind ``start`` (an offset; absent: from now on), those that do not count too.

    Without end, or with ``until`` to the record before that offset.

    Raises :class:`BrokerUnreachableError`.
    """
    key = session_id.encode()
    partition = partition_of(key, partitions(client))

    def choose(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
        first, end = bounds[partition]
        return {partition: end if start is None else max(first, min(start, end))}

    consumer = reply_consumer(client)
    await consumer.start(client.settings.topics.replies, [partition], choose)

    async def frames() -> AsyncIterator[ReplyFrame]:
        if until is not None and (start or 0) >= until:
            return
        async for records in consumer.batches():
            for record in records:
                if record.key == key and (reply := await decode(client, record)) is not None:
                    yield reply
                if until is not None and record.offset >= until - 1:
                    return

    try:
        yield frames()
    finally:
        await consumer.stop()
