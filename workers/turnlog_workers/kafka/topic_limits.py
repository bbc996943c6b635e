"""What the broker takes: asked of it, for sentences about what it did not take."""

import asyncio

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options

_NAME = "max.message.bytes"


async def max_message_bytes(settings: Settings, topic: str, *, timeout_s: float) -> int:
    """How long a topic's record batches may be. Raises ``KafkaError`` or ``OSError``."""
    admin = AIOKafkaAdminClient(**client_options(settings, "turnlog-limits"))
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {_NAME: None})])
            code, _, _, _, entries = answer.resources[0]
            if code:
                raise for_code(code)
            return next(int(entry[1]) for entry in entries if entry[0] == _NAME)
    finally:
        await admin.close()
