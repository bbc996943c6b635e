"""What a run on real parts left behind, read from outside: Kafka, the tools' journal and the DuckDB files."""

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from aiokafka import ConsumerRecord
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tests.checker import GroupCommit, History, SeenFrame, SentRequest, StoreContent, ToolRun
from tests.deployment import Deployment, Wire
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.commands import (
    CHANNEL_COMMANDS,
    ActiveSession,
    Chat,
    Forwarded,
    ForwardReceipt,
    GetHistory,
    GetSession,
    RequestHeader,
    ResetRunner,
)
from turnlog_schemas.errors import InvalidCommandError, WireError
from turnlog_schemas.parts import content_text
from turnlog_schemas.registry import FRAMES
from turnlog_workers.kafka.new_client import new_client

_SAMPLE_INTERVAL_S = 0.3
QUERIES = (GetSession, GetHistory, ResetRunner, ActiveSession)  #: they leave no event


class CommitSampler:
    """Looks at the group's offsets now and then, and at the log's ends right after that."""

    def __init__(self, deployment: Deployment) -> None:
        self.commits: list[GroupCommit] = []
        self._deployment = deployment
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commit sampler", daemon=True)

    def __enter__(self) -> "CommitSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_INTERVAL_S):
            try:
                self._follow()
            except KafkaError:
                continue  # the broker is away: that is one of the faults

    def _follow(self) -> None:
        settings = self._deployment.settings
        options = {"bootstrap_servers": settings.bootstrap_server, "bootstrap_timeout_ms": 5000}
        events = [TopicPartition(settings.topics.events, p) for p in range(settings.partitions)]
        last: dict[int, int] = {}
        admin = new_client(KafkaAdminClient, **options)
        try:
            consumer = new_client(KafkaConsumer, **options)
            try:
                while not self._stop.wait(_SAMPLE_INTERVAL_S):
                    committed = admin.list_group_offsets(settings.group_id).get(settings.group_id, {})
                    known = self._deployment.log_ends_known
                    ends = consumer.end_offsets(events)
                    known = known and self._deployment.log_ends_known
                    for tp, found in committed.items():
                        if last.get(tp.partition) != found.offset:
                            last[tp.partition] = found.offset
                            end = ends[TopicPartition(settings.topics.events, tp.partition)] if known else None
                            self.commits.append(GroupCommit(partition=tp.partition, offset=found.offset, log_end=end))
            finally:
                consumer.close()
        finally:
            admin.close()


async def collect(
    deployment: Deployment,
    wire: Wire,
    *,
    journal: Path,
    commits: Sequence[GroupCommit],
    broker_failed: bool,
    drained: bool,
) -> History:
    """The history of a run whose processes have ended."""
    topics = deployment.topics
    requests = [sent for record in await deployment.dump(topics.requests) if (sent := sent_request(record))]
    log_ends = {(frame.record.partition, frame.record.offset): frame.log_end for frame in wire.frames}
    replies = [seen_frame(record, log_ends) for record in await deployment.dump(topics.replies)]
    parked = [
        (int(headers["x-turnlog-partition"]), int(headers["x-turnlog-offset"]))
        for headers in (dict(record.headers) for record in await deployment.dump(topics.dead_letters))
    ]
    return History(
        requests=requests,
        log=await deployment.log(),
        frames=replies,
        tool_runs=[ToolRun.from_journal(line) for line in journal_lines(journal)],
        commits=commits,
        stores=await asyncio.to_thread(store_contents, deployment.folder / "data"),
        parked=parked,
        requests_topic=topics.requests,
        frames_may_be_lost=broker_failed,
        drained=drained,
    )


def sent_request(record: ConsumerRecord) -> SentRequest | None:
    """A record of the requests topic, as far as it can be read; ``None`` for what streams tell each other."""
    place = {"partition": record.partition, "offset": record.offset}
    try:
        header, command, _ = RequestCodec().decode_request(record.value)
    except InvalidCommandError as error:
        header, command = error.header, None
    except WireError:
        return SentRequest(**place, session_id=None)
    if isinstance(command, Forwarded | ForwardReceipt):
        return None
    subject = header.channel if _is_for_a_channel(record.key, header, command) else header.session_id
    if subject is None or (record.key is not None and record.key != subject.encode()):
        return SentRequest(**place, session_id=None)
    return SentRequest(
        **place,
        session_id=subject,
        request_id=header.request_id,
        # What a channel is asked for names the session in the header.
        command=repr((command, header.session_id)) if command is not None else repr(record.value),
        text=content_text(command.content) if isinstance(command, Chat) else None,
        asks_only=isinstance(command, QUERIES),
    )


def _is_for_a_channel(key: bytes | None, header: RequestHeader, command: object) -> bool:
    """Who has to answer; of a command that cannot be read, the one that the key names."""
    if command is not None:
        return isinstance(command, CHANNEL_COMMANDS)
    if header.channel is None or header.session_id is None:
        return header.channel is not None
    return key == header.channel.encode()


def seen_frame(record: ConsumerRecord, log_ends: Mapping[tuple[int, int], int | None]) -> SeenFrame:
    """A record of the reply topic."""
    codec = _frames()
    decode = codec.from_json if record.value[:1] == b"{" else codec.decode
    header, frame = decode(record.value)
    return SeenFrame(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        header=header,
        frame=frame,
        log_end=log_ends.get((record.partition, record.offset)),
    )


_codec: list[Codec] = []


def _frames() -> Codec:
    if not _codec:
        _codec.append(Codec(FRAMES))
    return _codec[0]


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the tools' journal."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def store_contents(data_dir: Path) -> list[StoreContent]:
    """Every DuckDB file of the deployment, those of dead processes too."""
    paths = [*sorted((data_dir / "stores").glob("*.duckdb")), *data_dir.glob("analytics.duckdb")]
    return [store_content(path) for path in paths]


def positions_in(file: Path) -> dict[int, int]:
    """How far the log is in a DuckDB file, by partition; empty where there is no file yet."""
    if not file.exists():
        return {}
    with duckdb.connect(str(file), read_only=True) as connection:
        return dict(connection.execute("SELECT partition, next_offset FROM partitions").fetchall())


def store_content(path: Path) -> StoreContent:
    """All tables of a file."""
    tables: dict[str, list[dict[str, Any]]] = {}
    with duckdb.connect(str(path), read_only=True) as connection:
        names = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
        for schema, name in names:
            found = connection.execute(f"SELECT * FROM {schema}.{name}")
            columns = [column[0] for column in found.description or ()]
            tables[name] = [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
    return StoreContent(name=path.name, tables=tables)
