"""Faust's transport with our own consumer in it: a static member of the group (see ``workers.group_member``)."""

from typing import Any, cast

from faust.transport.drivers.aiokafka import (
    AIOKafkaConsumerThread,
    Consumer,
    Transport,
    credentials_to_aiokafka_auth,
    server_list,
)

from workers.group_member import GroupConsumer


class IntakeThread(AIOKafkaConsumerThread):
    """The thread that fetches for Faust, and the one place where its aiokafka consumer is made."""

    def _create_worker_consumer(self, transport: Transport) -> GroupConsumer:
        conf = self.app.conf
        return GroupConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            on_fenced=self._fenced,
            bootstrap_servers=server_list(transport.url, transport.default_port),
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=_ms(conf.broker_max_poll_interval),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=1500,
            request_timeout_ms=_ms(conf.broker_request_timeout),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=_ms(conf.broker_session_timeout),
            rebalance_timeout_ms=_ms(conf.broker_rebalance_timeout),
            heartbeat_interval_ms=_ms(conf.broker_heartbeat_interval),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    def _fenced(self, sentence: str) -> None:
        app = cast(Any, self.app)
        app.loop.call_soon_threadsafe(app.fenced, sentence)


class IntakeConsumer(Consumer):
    """Faust's consumer, with our thread."""

    def _new_consumer_thread(self) -> IntakeThread:
        return IntakeThread(self, loop=self.loop, beacon=self.beacon)


class IntakeTransport(Transport):
    """Faust's transport, with our consumer."""

    Consumer = IntakeConsumer


def _ms(seconds: Any) -> int:
    return int((seconds or 0) * 1000)
