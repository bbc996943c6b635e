"""What a sealed log says to who reads it when all is over: every text but those of what is erased."""

from collections.abc import Iterator
from typing import Any

from tests.checker import Anomaly, accepted_events
from tests.simulation.ports import SimKeysReader, opened
from tests.simulation.world import World
from turnlog_schemas.blanking import erased_subject, subject_of
from turnlog_workers.kafka.sealing import key_id_of, sealed_part
from turnlog_workers.kafka.session_keys import SessionKeys


def check_seals(world: World) -> Iterator[Anomaly]:
    """Every record that cannot be read, or that tells what is erased."""
    reader: Any = SimKeysReader(world)
    keys = SessionKeys("chat.keys", world.partition_count, reader)
    for partition, records in enumerate(world.keys):
        for record in records:
            keys.of_partition(partition).take(record.key, record.value)
        accepted = accepted_events(world.events[partition])
        erased = {erased_subject(event.header, event.payload) for event in accepted} - {None}
        counted = {event.offset for event in accepted}
        for event in world.events[partition]:
            where = f"events[{partition}]@{event.offset}"
            subject = subject_of(event.header, event.payload)
            try:
                read = opened(world, keys, event)
            except Exception as error:
                yield Anomaly(kind="sealed for ever", where=where, text=f"{type(error).__name__}: {error}")
                continue
            if subject not in erased:
                if event.offset in counted and read.payload != event.payload:
                    yield Anomaly(kind="text lost", where=where, text=f"{subject} is not erased")
                continue
            _, headers = world.as_stored[partition][event.offset]
            seal = sealed_part(headers)
            if seal is not None and keys.of_partition(partition).find(key_id_of(seal)) is not None:
                yield Anomaly(kind="text back", where=where, text=f"{subject} is erased, and its key is there")
