"""The settings topic: read to its end before anything is served, followed from then on, written by the command line.

Key: the setting's name; value: its text; no value unsets it. The topic is compacted, so all of it is the truth.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from turnlog_streams.runtime_settings import UnknownSettingError, check_setting, forbidden
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError, UnreadableRange
from turnlog_workers.kafka.small_topics import read_small_topic, write_small_topic
from turnlog_workers.kafka.topic_reader import TopicReader

log = logging.getLogger(__name__)
_PARTITION = 0  # the topic has one
_FOLLOW_S = 0.8  #: every worker follows a change within a second
_CLIENT_ID = "turnlog-settings"


class RunSettings:
    """A worker's view of the run-time settings. ``changed`` is called after every change."""

    def __init__(self, settings: Settings, reader: TopicReader, changed: Callable[[Mapping[str, str]], None]) -> None:
        self._topic = settings.topics.settings
        self._reader = reader
        self._changed = changed
        self._next = 0
        self.values: dict[str, str] = {}

    async def catch_up(self) -> None:
        """Read what is new. Raises :class:`LogError`."""
        end = (await self._reader.ends(self._topic, [_PARTITION]))[_PARTITION]
        if self._next >= end:
            return
        first, end = (await self._reader.bounds(self._topic, [_PARTITION]))[_PARTITION]
        start = max(self._next, first)
        if start >= end:
            return
        async for records in self._reader.read_leniently(self._topic, _PARTITION, start, end):
            for record in records:
                if isinstance(record, UnreadableRange):
                    log.error("run-time settings %d to %d: %s", record.first, record.last, record.reason)
                else:
                    self._take(record.key, record.value)
        self._next = end
        self._changed(self.values)

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        name = (key or b"").decode(errors="replace")
        text = value.decode(errors="replace") if value is not None else None
        try:
            check_setting(name, text)
        except UnknownSettingError as error:
            log.warning("a run-time setting is ignored: %s", error)
            return
        if text is None:
            self.values.pop(name, None)
        else:
            self.values[name] = text

    async def follow(self) -> None:
        """Keep up with the topic, for ever."""
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await self.catch_up()
            except LogError as error:
                log.warning("cannot read the run-time settings: %s", error)


def write_setting(settings: Settings, name: str, value: str | None, *, timeout_s: float = 10.0) -> None:
    """Set (or with ``None`` unset) a run-time setting; stored on return. Blocks.

    A model is compared with the allow list, where these settings have one that somebody set; workers pass over a model
    that theirs forbids. Raises :class:`UnknownSettingError`, :class:`BrokerUnreachableError`
    or :class:`NotFoundError`.
    """
    check_setting(name, value)
    if (
        value is not None
        and "allow_models" in settings.model_fields_set
        and forbidden(settings.policy(), {name: value})
    ):
        raise UnknownSettingError(f"{name}: {settings.policy().not_allowed(value)}")
    records = [(name.encode(), value.encode() if value is not None else None)]
    write_small_topic(settings, settings.topics.settings, records, _CLIENT_ID, timeout_s=timeout_s)


def read_settings(settings: Settings, *, timeout_s: float = 10.0) -> dict[str, str]:
    """The run-time settings of now. Blocks. Raises :class:`BrokerUnreachableError` or :class:`NotFoundError`."""
    values: dict[str, str] = {}
    for key, value in read_small_topic(settings, settings.topics.settings, timeout_s=timeout_s):
        name = (key or b"").decode(errors="replace")
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value.decode(errors="replace")
    return values
