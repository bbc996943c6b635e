"""A producer of aiokafka whose end nobody waits for any more.

``stop()`` waits until what the producer holds is stored. Whoever gives that up leaves a task that goes on trying, and
asks for the cluster and connects again, for as long as the process runs (aiokafka 0.14.0).

This knows aiokafka from inside. With a version that it was not tried with, nothing is done.
"""

import asyncio
from typing import Any

import aiokafka
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError, ProducerClosed

TRIED_WITH = frozenset({"0.14.0"})  #: versions of aiokafka


class _NoMore(dict[Any, Any]):
    """A client's connections, none of which may be used any more: one that comes late is closed at once, and none is
    made for what waited until then: aiokafka makes one after the other, and looks here first.
    """

    def __contains__(self, broker: object) -> bool:
        return True

    def __missing__(self, broker: Any) -> Any:
        raise KafkaConnectionError("this producer was given up")

    def __setitem__(self, broker: Any, connection: Any) -> None:
        connection.close(reason=CloseReason.SHUTDOWN)
        super().__setitem__(broker, connection)  # aiokafka looks it up at once, and is told that it is closed


def give_up(producer: Any) -> None:
    """Everything that it holds fails with ``ProducerClosed``; it may be stored all the same.

    Nothing of it runs on, except that a connection that is being made is waited for, as long as that may take.
    """
    if aiokafka.__version__ not in TRIED_WITH:
        return
    client, sending, queue = producer.client, producer._sender.sender_task, producer._message_accumulator
    queue._pending_batches.update(*queue._batches.values())  # one that is to be sent again is looked for there
    queue.fail_all(ProducerClosed())
    for batch in queue._pending_batches:
        of_records = [future for future, _ in getattr(batch, "_msg_futures", ())]
        for future in (batch.future, getattr(batch, "_drain_waiter", batch.future), *of_records):
            if not future.cancelled():
                future.exception()  # asyncio would say of each that its exception was never retrieved
    queue.reenqueue = lambda batch: None  # it has failed, and aiokafka does not find it where it looks
    known = client._md_update_fut or asyncio.get_running_loop().create_future()
    if not known.done():
        known.set_result(False)
    client._md_update_fut = known  # nobody looks any more, and so nobody waits for it
    for task in (sending, client._sync_task):
        if task is not None:
            task.cancel()
    client._conns = _NoMore(client._conns)  # aiokafka looks for them once more, and closes them
    for connection in list(client._conns.values()):
        connection.close(reason=CloseReason.SHUTDOWN)
