"""One class for every setting, read from the environment (``TURNLOG_...``). Each bound has its unit in its name."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streams.history_compaction import HistoryCompactionPolicy
from streams.policy import Policy
from streams.topics import Topics

KIB = 1024
MIB = 1024 * KIB


class Settings(BaseSettings):
    """The settings of every process. An unusable value is a ``pydantic.ValidationError`` that names the setting."""

    model_config = SettingsConfigDict(env_prefix="TURNLOG_", env_ignore_empty=True, extra="ignore", frozen=True)

    # ---- where things are
    bootstrap_server: str = "localhost:9092"  #: comma-separated host:port
    prefix: str = "chat"  #: of every topic
    group: str = ""  #: consumer group of the workers; empty: ``<prefix>.workers``
    data_dir: Path = Path("turnlog-data")
    snapshot_path: Path | None = None  #: published analysts' file; absent: ``<data_dir>/snapshot.duckdb``
    worker_name: str = Field(default="", pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,199})?$")  #: empty: from the host's

    # ---- connection security, the same for every client
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    ssl_ca_file: Path | None = None
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None

    # ---- topics
    partitions: int = Field(default=12, ge=1)
    replication_factor: int = Field(default=1, ge=1)
    reply_topic_prefix: str = ""  #: what a request's ``reply_to`` must start with; empty: ``<prefix>.replies``

    # ---- models
    default_model: str = "echo:"
    fast_model: str = ""  #: for summaries and other small tasks; empty: the default model
    allow_models: Annotated[tuple[str, ...], NoDecode] = ("echo:*",)  #: comma-separated shell-style patterns

    # ---- group membership
    session_timeout_s: float = 10.0  #: how long a dead worker keeps its partitions
    rebalance_timeout_s: float = 5.0  #: how long others wait for a worker that does not answer when somebody joins
    heartbeat_interval_s: float = 1.0  #: also how late the others notice who joins or leaves
    commit_interval_s: float = 1.0

    # ---- the log
    append_linger_ms: float = 3.0  #: between two appends to a partition: what arrives meanwhile shares the second
    append_timeout_s: float = 10.0  #: then the partition is released and claimed again
    max_batch_bytes: int = 4 * MIB
    tail_check_interval_s: float = 1.0  #: how often an idle owner looks for foreign claims and missed requests
    stalled_delivery_s: float = 5.0  #: requests that are not delivered for so long are read from the topic directly
    startup_timeout_s: float = 30.0

    # ---- turns
    max_request_bytes: int = Field(default=MIB, ge=16 * KIB)  #: of a request record, unpacked and with its headers
    max_text_bytes: int = 256 * KIB
    max_tool_result_bytes: int = 512 * KIB
    max_running_turns: int = 10_000  #: of one worker
    max_queued_turns_per_session: int = 100
    max_queued_turns: int = 50_000  #: of one worker; then the intake waits
    max_inbox_requests: int = 10_000  #: of one partition; then the intake waits
    max_runner_attempts: int = 3
    max_takeovers: int = 20
    retry_delay_s: float = 0.5  #: before the second attempt; doubles
    turn_timeout_s: float = 600.0
    max_turn_messages: int = 200  #: that a runner may produce in one turn
    idle_timeout_s: float = 600.0  #: of a session and its runner
    drain_timeout_s: float = 10.0
    delta_interval_ms: int = 25  #: at most one text frame per so long and turn; 0: each piece
    reply_linger_ms: float = 3.0
    max_pending_replies: int = 100_000  #: frames of one worker that the broker has not acknowledged

    # ---- history compaction
    history_max_tokens: int = 0  #: of an assembled history; above it is compacted; 0: 80,000; negative: on request only
    history_keep_tail: int = Field(default=20, ge=0)  #: newest messages that stay word for word
    summary_max_tokens: int = Field(default=4_000, ge=64)  #: of a summary; also at most an eighth of the limit
    summary_window_tokens: int = Field(default=32_768, ge=1_024)  #: of the fast model: prompt and answer of one call
    summary_timeout_s: float = 120.0  #: then the history is cut short without a model

    # ---- stores
    store_commit_interval_s: float = 5.0  #: a commit costs about 15 ms of CPU, for each partition
    store_batch_events: int = 5_000
    store_memory_mb: int = Field(default=256, ge=64)  #: that DuckDB may use in a worker, for all partitions together
    publish_interval_s: float = 2.0  #: of the analysts' snapshot

    # ---- logging
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    library_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"  #: of Kafka clients and other libraries
    log_format: Literal["auto", "human", "json"] = "auto"
    ready_file: Path | None = None  #: touched when the process is ready

    @field_validator("allow_models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

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
            allow_models=self.allow_models,
            max_text_bytes=self.max_text_bytes,
            max_queued_turns=self.max_queued_turns_per_session,
            max_runner_attempts=self.max_runner_attempts,
            max_takeovers=self.max_takeovers,
            history=HistoryCompactionPolicy(max_tokens=self.history_max_tokens, keep_tail=self.history_keep_tail),
            max_summary_tokens=self.summary_max_tokens,
            summary_window_tokens=self.summary_window_tokens,
        )
