"""A producer of aiokafka whose end nobody waits for any more.

``stop()`` waits until what the producer holds is stored. Whoever gives that up leaves a task that goes on trying, and
asks for the cluster and connects again, for as long as the process runs (aiokafka 0.14.0).

This knows aiokafka from inside. With a version that it was not tried with, nothing is done.
"""

import asyncio
from typing import Any

import aiokafka
from aiokafka.conn import CloseReason
from aiokafka.errors import ProducerClosed

TRIED_WITH = frozenset({"0.14.0"})  #: versions of aiokafka


class _NoMore(dict[Any, Any]):
    """A client's connections, none of which is of use: one that was being made is closed as soon as it is there."""

    def __setitem__(self, broker: Any, connection: Any) -> None:
        connection.close(reason=CloseReason.SHUTDOWN)
        super().__setitem__(broker, connection)  # aiokafka looks it up at once, and is told that it is closed


def give_up(producer: Any) -> None:
    """Everything that it holds fails with ``ProducerClosed``; nothing of it runs on. It may be stored all the same."""
    if aiokafka.__version__ not in TRIED_WITH:
        return
    client, sending, queue = producer.client, producer._sender.sender_task, producer._message_accumulator
    queue._pending_batches.update(*queue._batches.values())  # one that is to be sent again is looked for there
    queue.fail_all(ProducerClosed())
    for batch in queue._pending_batches:
        of_records = [future for future, _ in getattr(batch, "_msg_futures", ())]
        for future in (batch.future, getattr(batch, "_drain_waiter", batch.future), *of_records):
            if not future.cancelled():
                future.exception()  # asyncio would say of each that nobody has heard of it
    queue.reenqueue = lambda batch: None  # it has failed, and aiokafka does not find it where it looks
    known = client._md_update_fut or asyncio.get_running_loop().create_future()
    if not known.done():
        known.set_result(False)
    client._md_update_fut = known  # nobody looks any more, and so nobody waits for it
    for task in (sending, client._sync_task):
        if task is not None:
            task.cancel()
    connections, client._conns = client._conns, _NoMore()
    for connection in connections.values():
        connection.close(reason=CloseReason.SHUTDOWN)
