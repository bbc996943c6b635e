"""One class for every setting, read from the environment (``TURNLOG_...``). Each bound has its unit in its name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from turnlog_schemas.generation import GenerationParams
from turnlog_streams.files import FilePolicy
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.policy import Policy
from turnlog_streams.topics import Topics
from turnlog_workers.base.allow_list import read_allow_list
from turnlog_workers.base.file_settings import read_file_prefixes, read_media_types
from turnlog_workers.base.generation_settings import read_params, read_windows
from turnlog_workers.base.mcp_settings import McpServer, read_mcp_servers
from turnlog_workers.base.model_servers import HttpServer, read_servers
from turnlog_workers.base.settings_check import SettingsError, checked_token_url, conflicts, in_words
from turnlog_workers.base.tool_rules import ToolRule, read_rules

KIB = 1024
MIB = 1024 * KIB
#: With what a batch costs beside its records it fits into the event log as ``turnlog topics init`` makes it: 8 MiB.
LARGEST_BATCH_BYTES = 7 * MIB
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/,\[\]]+)(:\d{1,5})?")
_TOPIC = r"[A-Za-z0-9._-]"


class Settings(BaseSettings):
    """The settings of every process. An unusable value is a :class:`SettingsError` that names its variable."""

    model_config = SettingsConfigDict(env_prefix="TURNLOG_", env_ignore_empty=True, extra="ignore", frozen=True)

    def __init__(self, **values: Any) -> None:
        """``values`` count before the environment's. Raises :class:`SettingsError`."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(in_words(error.errors(include_url=False))) from None

    # ---- where things are
    bootstrap_server: str = "localhost:9092"  #: comma-separated host:port
    prefix: str = Field(default="chat", pattern=rf"^{_TOPIC}{{1,200}}$")  #: of every topic
    group: str = Field(default="", max_length=200)  #: consumer group of the workers; empty: ``<prefix>.workers``
    data_dir: Path = Path("turnlog-data")
    snapshot_path: Path | None = None  #: published analysts' file; absent: ``<data_dir>/snapshot.duckdb``
    prices: Path | None = None  #: CSV file with what models cost, for the analysts' tables
    user_metadata_key: str = Field(default="user_id", pattern=r"^[A-Za-z0-9_.:-]{1,100}$")  #: where it has a user's id
    worker_name: str = Field(default="", pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,199})?$")  #: empty: from the host's

    # ---- connection security, the same for every client
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    sasl_password_file: Path | None = None  #: read again for each new client
    sasl_token_file: Path | None = None  #: of OAUTHBEARER: read again for each connection
    sasl_token_url: str = Field(default="", max_length=2000)  #: or where tokens are asked for, by client credentials
    sasl_token_scope: str = Field(default="", max_length=2000)  #: that a token is asked for
    ssl_ca_file: Path | None = None
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None

    # ---- topics
    partitions: int = Field(default=12, ge=1, le=10_000)
    replication_factor: int = Field(default=1, ge=1, le=100)
    seal_texts: bool = False  #: is a new prefix made with a topic of keys, so that its sessions can be erased?
    reply_topic_prefix: str = Field(default="", pattern=rf"^{_TOPIC}{{0,249}}$")  #: empty: ``<prefix>.replies``

    # ---- models
    default_model: str = Field(default="echo:", min_length=1, max_length=1000)
    fast_model: str = Field(default="", max_length=1000)  #: of small tasks; empty: the default model
    titles: bool = True  #: does the fast model, if one is set, write the titles of sessions that were given none?
    allow_models: Annotated[tuple[str, ...], NoDecode, Field(min_length=1)] = (
        "echo:*",
    )  #: shell-style patterns, commas; +PATTERN: added to the default

    model_params: Annotated[GenerationParams | None, NoDecode] = None  #: of all turns, as JSON
    model_windows: Annotated[tuple[tuple[str, int], ...], NoDecode] = ()  #: tokens by pattern of models, as JSON
    http_servers: Annotated[Mapping[str, HttpServer], NoDecode] = Field(default={})  #: by name, as JSON
    # ---- files that messages refer to: read for a call of a model, never stored
    allow_files: Annotated[tuple[str, ...], NoDecode] = ()  #: URIs of folders and hosts, each ends with /; commas
    file_media_types: Annotated[tuple[str, ...], NoDecode] = (
        *("image/png", "image/jpeg", "image/gif", "image/webp"),
        *("application/pdf", "text/plain"),
    )  #: shell-style patterns, commas
    max_file_bytes: int = Field(default=10 * MIB, ge=1, le=256 * MIB)
    max_turn_file_bytes: int = Field(default=20 * MIB, ge=1, le=1024 * MIB)  #: in memory during a model call
    file_timeout_s: float = Field(default=30.0, ge=0.1, le=600)  #: to read one
    file_private_addresses: bool = False  #: may a host of allow_files be one of this network?

    # ---- calls of models
    max_answer_tokens: int = Field(default=4096, ge=1, le=1_000_000)  #: of one model call
    max_model_calls: int = Field(default=20, ge=1, le=1000)  #: of one attempt
    model_connect_timeout_s: float = Field(default=10.0, ge=0.1, le=300)
    model_first_event_timeout_s: float = Field(default=300.0, ge=0.1, le=3600)  #: a server's queue says nothing
    model_stall_timeout_s: float = Field(default=60.0, ge=0.1, le=3600)  #: between two events of an answer
    max_retry_after_s: float = Field(default=60.0, ge=0, le=3600)  #: that a turn waits because a server asks for it

    # ---- the embedded model: of the process that a machine's workers share; whoever starts it decides
    embedded_threads: int = Field(default=0, ge=0, le=256)  #: 0: one less than the machine has, 4 at most
    embedded_slots: int = Field(default=4, ge=1, le=64)  #: answers at a time
    embedded_context_tokens: int = Field(default=4096, ge=512, le=8192)  #: of a slot: prompt and answer; 24 KB each
    embedded_max_waiting_turns: int = Field(default=100, ge=1, le=10_000)  #: of one worker; more are overload
    embedded_idle_timeout_s: float = Field(default=600.0, ge=1, le=604_800)  #: then it ends, until it is needed again
    runtime_dir: Path | None = None  #: sockets and locks of this user; absent: below XDG_RUNTIME_DIR, or /tmp

    # ---- tools
    allow_tools: Annotated[tuple[ToolRule, ...], NoDecode] = ()  #: which turns may use which tools; commas
    tool_timeout_s: float = Field(default=30.0, ge=0.1, le=3600)  #: of one call
    max_tool_output_bytes: int = Field(default=64 * KIB, ge=256, le=4 * MIB)  #: that a model is shown; the rest is cut
    max_running_tools: int = Field(default=32, ge=1, le=10_000)  #: calls at a time, of one worker
    max_running_calls_per_tool: int = Field(default=8, ge=1, le=10_000)  #: of one worker
    max_calls_per_step: int = Field(default=16, ge=1, le=128)  #: of one message of a model; others are not started
    mcp_servers: Annotated[Mapping[str, McpServer], NoDecode] = Field(default={})  #: by name, as JSON
    mcp_connect_timeout_s: float = Field(default=10.0, ge=0.1, le=300)  #: to start a server and list its tools
    max_turn_tokens: int = Field(default=2_000_000, ge=1, le=1_000_000_000)  #: after so many no tool is started

    # ---- group membership
    session_timeout_s: float = Field(default=10.0, ge=1, le=1800)  #: how long a dead worker keeps its partitions
    rebalance_timeout_s: float = Field(default=5.0, ge=0.5, le=300)  #: for a worker that does not answer
    heartbeat_interval_s: float = Field(default=1.0, ge=0.05, le=300)  #: also how late others notice a join
    commit_interval_s: float = Field(default=1.0, ge=0.05, le=300)

    # ---- the log
    append_linger_ms: float = Field(default=3.0, ge=0, le=500)  #: what arrives meanwhile shares the next append
    append_timeout_s: float = Field(default=10.0, ge=1, le=300)  #: then the partition is released and claimed again
    max_batch_bytes: int = Field(default=4 * MIB, ge=64 * KIB, le=LARGEST_BATCH_BYTES)
    tail_check_interval_s: float = Field(default=1.0, ge=0.05, le=300)  #: for foreign claims, missed requests
    stalled_delivery_s: float = Field(default=5.0, ge=0.1, le=3600)  #: then requests are read from the topic
    startup_timeout_s: float = Field(default=30.0, ge=1, le=600)

    # ---- turns
    max_request_bytes: int = Field(default=MIB, ge=16 * KIB, le=4 * MIB)  #: of a record, unpacked
    max_text_bytes: int = Field(default=256 * KIB, ge=1024, le=4 * MIB)
    max_tool_result_bytes: int = Field(default=512 * KIB, ge=1024, le=4 * MIB)
    max_running_turns: int = Field(default=10_000, ge=1, le=1_000_000)  #: of one worker
    max_queued_turns_per_session: int = Field(default=100, ge=1, le=100_000)
    max_queued_turns: int = Field(default=50_000, ge=1, le=10_000_000)  #: of one worker; then the intake waits
    max_inbox_requests: int = Field(default=10_000, ge=1, le=1_000_000)  #: of one partition; then the intake waits
    max_runner_attempts: int = Field(default=3, ge=1, le=100)
    max_takeovers: int = Field(default=20, ge=1, le=10_000)
    retry_delay_s: float = Field(default=0.5, ge=0, le=600)  #: before the second attempt; doubles
    turn_timeout_s: float = Field(default=600.0, ge=1, le=86_400)
    max_turn_messages: int = Field(default=200, ge=1, le=100_000)  #: that a runner may produce in one turn
    idle_timeout_s: float = Field(default=600.0, ge=0.1, le=604_800)  #: of a session and its runner
    max_idle_sessions: int = Field(default=500, ge=0, le=1_000_000)  #: in memory, of one partition
    max_idle_memory_mb: int = Field(default=512, ge=0, le=1_048_576)  #: of them, all partitions together
    drain_timeout_s: float = Field(default=10.0, ge=0, le=3600)
    on_stop: Literal["leave", "remain"] = "leave"  #: the group; remain: it is started again within the session timeout
    delta_interval_ms: int = Field(default=25, ge=0, le=10_000)  #: between text frames; 0: each piece
    reply_linger_ms: float = Field(default=3.0, ge=0, le=1000)
    max_pending_replies: int = Field(default=100_000, ge=100, le=10_000_000)  #: not acknowledged, of one worker

    # ---- history compaction
    history_max_tokens: int = Field(default=0, ge=-1, le=100_000_000)  #: 0: 80,000; -1: on request
    history_keep_tail: int = Field(default=20, ge=0, le=10_000)  #: newest messages that stay word for word
    summary_max_tokens: int = Field(default=4_000, ge=64, le=1_000_000)  #: also at most an eighth of the limit
    summary_window_tokens: int = Field(default=32_768, ge=1_024, le=10_000_000)  #: one call: prompt, answer
    summary_timeout_s: float = Field(default=120.0, ge=1, le=3600)  #: then the history is cut short without a model

    # ---- stores
    # A commit costs some 15 ms of CPU for each partition, however few its events; they come back from the log.
    store_commit_interval_s: float = Field(default=60.0, ge=0.05, le=300)
    store_commit_events: int = Field(default=2_000, ge=1, le=1_000_000)  #: of a partition: written before the interval
    store_batch_events: int = Field(default=5_000, ge=1, le=1_000_000)
    # A process takes some 250 MB while it makes a part of a store.
    store_build_events: int = Field(default=100_000, ge=1, le=1_000_000_000)  #: for a store without any
    store_build_processes: int = Field(default=2, ge=0, le=16)  #: at most one for each core; below 2: none
    store_memory_mb: int = Field(default=256, ge=64, le=1_048_576)  #: of DuckDB, all partitions together
    publish_interval_s: float = Field(default=2.0, ge=0.05, le=3600)  #: of the analysts' snapshot

    # ---- the HTTP front
    http_host: str = Field(default="127.0.0.1", min_length=1, max_length=255)  #: without keys: loopback only
    http_port: int = Field(default=8080, ge=0, le=65535)  #: 0: any that is free
    http_keys: SecretStr = SecretStr("")  #: JSON; hashes, not the keys
    http_keys_file: Path | None = None  #: with the same; both count
    http_hosts: Annotated[tuple[str, ...], NoDecode] = ()  #: that are served beside loopback's names; commas
    http_cors_origins: Annotated[tuple[str, ...], NoDecode] = ()  #: whose pages may ask; commas
    http_chat_id_header: str = Field(default="", pattern=r"^([A-Za-z0-9-]{1,100})?$")  #: that names a chat
    http_max_body_bytes: int = Field(default=2 * MIB, ge=1024, le=64 * MIB)
    http_max_requests_per_minute: int = Field(default=3_000, ge=1, le=10_000_000)  #: of a key
    http_max_streams_per_key: int = Field(default=1_000, ge=1, le=1_000_000)  #: open at a time
    http_max_buffered_frames: int = Field(default=2_048, ge=16, le=1_000_000)  #: of one stream, not sent yet
    http_slow_reader_timeout_s: float = Field(default=30.0, ge=0.1, le=3600)  #: reads nothing: its stream is cut
    http_heartbeat_s: float = Field(default=15.0, ge=0.1, le=3600)  #: of silence, then a comment is sent

    # ---- to be seen from outside
    metrics_host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)  #: empty: none; 0: any that is free
    watchdog_timeout_s: float = Field(default=120.0, ge=1, le=86_400)  #: of standing still, then it is told

    # ---- logging
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    library_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"  #: of Kafka clients and other libraries
    log_format: Literal["auto", "human", "json"] = "auto"
    ready_file: Path | None = None  #: touched when the process is ready

    @field_validator("allow_models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return read_allow_list(value, cls.model_fields["allow_models"].default) if isinstance(value, str) else value

    @field_validator("http_hosts", "http_cors_origins", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(part for item in value.split(",") if (part := item.strip())) if isinstance(value, str) else value

    @field_validator("allow_files", mode="before")
    @classmethod
    def _files(cls, value: object) -> object:
        return read_file_prefixes(value) if isinstance(value, str) else value

    @field_validator("file_media_types", mode="before")
    @classmethod
    def _media_types(cls, value: object) -> object:
        return read_media_types(value) if isinstance(value, str) else value

    @field_validator("model_params", mode="before")
    @classmethod
    def _params(cls, value: object) -> object:
        return read_params(value) if isinstance(value, str) else value

    @field_validator("model_windows", mode="before")
    @classmethod
    def _windows(cls, value: object) -> object:
        return read_windows(value) if isinstance(value, str) else value

    @field_validator("allow_tools", mode="before")
    @classmethod
    def _tool_rules(cls, value: object) -> object:
        if isinstance(value, str):
            return read_rules([part.strip() for part in value.split(",") if part.strip()])
        return value

    @field_validator("mcp_servers", mode="before")
    @classmethod
    def _mcp_servers(cls, value: object) -> object:
        return read_mcp_servers(value) if isinstance(value, str) else value

    @field_validator("http_servers", mode="before")
    @classmethod
    def _servers(cls, value: object) -> object:
        return read_servers(value) if isinstance(value, str) else value

    @field_validator("sasl_token_url")
    @classmethod
    def _token_url(cls, value: str) -> str:
        return checked_token_url(value) if value else value

    @field_validator("bootstrap_server")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            if not _ADDRESS.fullmatch(address.strip()):
                raise ValueError(f"{address.strip()[:100]!r} is no host:port (several with commas, without a scheme)")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if problems := list(conflicts(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def topics(self) -> Topics:
        return Topics(prefix=self.prefix)

    @property
    def group_id(self) -> str:
        return self.group or f"{self.prefix}.workers"

    @property
    def reply_prefix(self) -> str:
        return self.reply_topic_prefix or self.topics.replies

    @property
    def snapshot(self) -> Path:
        """Where the analysts' read-only file is published."""
        return self.snapshot_path or self.data_dir / "snapshot.duckdb"

    def policy(self) -> Policy:
        """The bounds that decisions know."""
        return Policy(
            default_model=self.default_model,
            fast_model=self.fast_model,
            titles=self.titles,
            allow_models=self.allow_models,
            files=FilePolicy(
                prefixes=self.allow_files,
                media_types=self.file_media_types,
                max_bytes=self.max_file_bytes,
                max_turn_bytes=self.max_turn_file_bytes,
            ),
            params=self.model_params,
            model_windows=(*self.model_windows, ("smollm2:*", self.embedded_context_tokens)),
            max_answer_tokens=self.max_answer_tokens,
            max_text_bytes=self.max_text_bytes,
            max_tool_result_bytes=self.max_tool_result_bytes,
            max_queued_turns=self.max_queued_turns_per_session,
            max_runner_attempts=self.max_runner_attempts,
            max_takeovers=self.max_takeovers,
            history=HistoryCompactionPolicy(max_tokens=self.history_max_tokens, keep_tail=self.history_keep_tail),
            max_summary_tokens=self.summary_max_tokens,
            summary_window_tokens=self.summary_window_tokens,
        )
