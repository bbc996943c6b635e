"""A log as it is read once the keys of what it erases are gone."""

from dataclasses import replace
from hashlib import sha256

from tests.event_logs import LogWriter
from turnlog_schemas import events as ev
from turnlog_schemas.blanking import blanked, erased_subject, subject_of
from turnlog_streams.reader_rule import LoggedEvent


def blank(log: LogWriter) -> LogWriter:
    """The same log, with the erased sessions' events blank."""
    gone = {erased_subject(record.header, record.payload) for record in log.records} - {None}
    again = LogWriter(log.rng, log.partition)
    again.records = [_blank(record, gone) for record in log.records]
    return again


def _blank(record: LoggedEvent, gone: set[str | None]) -> LoggedEvent:
    if not isinstance(record.payload, ev.EVENTS) or subject_of(record.header, record.payload) not in gone:
        return record
    return replace(record, payload=blanked(record.payload, lambda told: sha256(told.encode()).hexdigest()))
