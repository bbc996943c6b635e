"""The topics of a development stack."""

from collections.abc import Mapping
from typing import Any

from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.topics_admin import init_topics


def init_stack_topics(variables: Mapping[str, str]) -> None:
    """Create them, given the ``TURNLOG_...`` variables of the stack's processes. Blocks."""
    values: dict[str, Any] = {name.removeprefix("TURNLOG_").lower(): value for name, value in variables.items()}
    init_topics(Settings(**values))
