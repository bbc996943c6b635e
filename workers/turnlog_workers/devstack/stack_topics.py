"""The topics of a development stack."""

import importlib
import threading
from collections.abc import Mapping
from typing import Any

from turnlog_workers.base.config import Settings

_ADMIN = "turnlog_workers.kafka.topics_admin"


def import_beside() -> None:
    """Import what :func:`init_stack_topics` needs in a thread: 0.3 s that the broker's start takes anyway."""
    threading.Thread(target=importlib.import_module, args=(_ADMIN,), daemon=True).start()


def init_stack_topics(variables: Mapping[str, str]) -> None:
    """Create them, given the ``TURNLOG_...`` variables of the stack's processes. Blocks."""
    from turnlog_workers.kafka.topics_admin import init_topics

    values: dict[str, Any] = {name.removeprefix("TURNLOG_").lower(): value for name, value in variables.items()}
    init_topics(Settings(**values))
