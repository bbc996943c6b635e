"""The bounds of a worker's parts, from its settings."""

from turnlog_workers.base.config import MIB, Settings
from turnlog_workers.sessions.turn_host import ActorLimits
from turnlog_workers.shard.worker_context import ShardLimits


def shard_limits(settings: Settings) -> ShardLimits:
    """Of a partition."""
    return ShardLimits(
        max_batch_bytes=settings.max_batch_bytes,
        max_inbox_requests=settings.max_inbox_requests,
        max_queued_turns=settings.max_queued_turns,
        store_commit_interval_s=settings.store_commit_interval_s,
        store_commit_events=settings.store_commit_events,
        store_batch_events=settings.store_batch_events,
        session_timeout_s=settings.session_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        max_idle_sessions=settings.max_idle_sessions,
        max_idle_bytes=settings.max_idle_memory_mb * MIB,
        stalled_delivery_s=settings.stalled_delivery_s,
        append_linger_s=settings.append_linger_ms / 1000,
    )


def actor_limits(settings: Settings) -> ActorLimits:
    """Of a session at work."""
    return ActorLimits(
        turn_timeout_s=settings.turn_timeout_s,
        retry_delay_s=settings.retry_delay_s,
        delta_interval_s=settings.delta_interval_ms / 1000,
        max_text_bytes=settings.max_text_bytes,
        max_tool_result_bytes=settings.max_tool_result_bytes,
        max_turn_messages=settings.max_turn_messages,
        summary_timeout_s=settings.summary_timeout_s,
        max_retry_after_s=settings.max_retry_after_s,
        max_turn_tokens=settings.max_turn_tokens,
    )
