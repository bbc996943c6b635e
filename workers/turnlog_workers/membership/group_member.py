"""A static member of the consumer group: aiokafka's coordinator, and what it lacks for ``group.instance.id``.

aiokafka joins with the name and then forgets it: its heartbeats do not say it, so that a member whose name was taken
is told "unknown member", joins anew and takes the name back, for ever; and it never leaves. Here

- heartbeats name the instance: whoever is replaced is told so (error 82, FENCED_INSTANCE_ID), and ends;
- a join without a member id looks first who has the name. Our own predecessor (by the token of its client id, see
  ``worker_name``) is dead: its place is ours at once. Anybody else lives if it is still there after a session
  timeout: then it is us who end, and the other one notices nothing;
- closing leaves the group for good, so that others take over at once, unless the worker is to have its place back:
  ``leaves`` tells. A killed process says nothing, its place is kept.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    for_code,
)
from aiokafka.protocol.group import HeartbeatRequest

from turnlog_workers.membership.assignor import KeepingAssignor
from turnlog_workers.membership.group_protocol import FENCED_INSTANCE_ID, DescribeGroup, Heartbeat, LeaveGroup

log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 0.5
_SURE_S = 2.0  #: beside the session timeout: until the broker has taken a dead member out

_NO_LONGER_COORDINATOR = (GroupCoordinatorNotAvailableError.errno, NotCoordinatorForGroupError.errno)

#: Called once, in the thread of the consumer, with the sentence to end with.
OnFenced = Callable[[str], None]

#: Asked in that thread when the member is closed: does it leave the group? Otherwise its place is kept for it.
Leaves = Callable[[], bool]


class GroupMember(GroupCoordinator):  # type: ignore[misc]
    """One consumer's membership under a name."""

    def __init__(
        self,
        client: Any,
        subscription: Any,
        *,
        assignor: KeepingAssignor,
        on_fenced: OnFenced,
        leaves: Leaves,
        **options: Any,
    ) -> None:
        self._assignor = assignor
        self._on_fenced = on_fenced
        self._leaves = leaves
        self._fenced = False
        self._partitions_at_join: dict[str, int] = {}
        super().__init__(client, subscription, assignors=[assignor], **options)

    def _end(self, sentence: str) -> None:
        """The name is another's: no request of ours reaches the group any more, and the worker is told once."""
        if not self._fenced:
            self._fenced = True
            log.error("%s", sentence)
            self._on_fenced(sentence)

    async def _send_req(self, request: Any) -> Any:
        if isinstance(request, HeartbeatRequest):
            request = Heartbeat(self.group_id, self.generation, self.member_id, self._group_instance_id)
        asked_as = self.member_id
        response = await super()._send_req(request)
        if getattr(response, "error_code", 0) == FENCED_INSTANCE_ID:
            if not asked_as or asked_as != self.member_id:
                # A commit of an older generation makes us join anew, under another member id: it is our own join that
                # a heartbeat under way with the old one hears of.
                raise RebalanceInProgressError(f"{self._group_instance_id!r} joins anew")
            self._end(
                f"another process has joined the group {self.group_id!r} as {self._group_instance_id!r}, so this one "
                "ends: give each worker a name of its own (TURNLOG_WORKER_NAME)"
            )
            raise RebalanceInProgressError(f"{self._group_instance_id!r} is another process")
        return response

    # ---- joining

    async def _do_rejoin_group(self, subscription: Any) -> bool:
        self._assignor.generation = self.generation
        if self._fenced or not (self.member_id or await self._may_join()):
            await asyncio.wait([self._closing])
            return False
        return bool(await super()._do_rejoin_group(subscription))

    async def _may_join(self) -> bool:
        """Is the name free, or our dead predecessor's? Waits while that is not sure; false: it is another's."""
        loop = asyncio.get_running_loop()
        patience_s = self._session_timeout_ms / 1000 + _SURE_S
        deadline = loop.time() + patience_s
        while not self._closing.done():
            try:
                holder = await self._holder()
            except KafkaError as error:
                log.warning("the broker does not tell who is in the group: %s", error)
                deadline = loop.time() + patience_s
            else:
                if holder is None:
                    return True
                if loop.time() > deadline:
                    self._end(
                        f"the group {self.group_id!r} has another live worker {self._group_instance_id!r} ({holder}), "
                        "so this one ends: give each worker a name of its own (TURNLOG_WORKER_NAME)"
                    )
                    return False
            await asyncio.wait([self._closing], timeout=_LOOK_AGAIN_S)
        return False

    async def _holder(self) -> str | None:
        """The member that has our name and is not our predecessor: its client and host. Raises ``KafkaError``."""
        await self.ensure_coordinator_known()
        response = await self._send_req(DescribeGroup(self.group_id))
        for error_code, _, _, _, _, members, _ in response.groups:
            if error_code in _NO_LONGER_COORDINATOR:
                self.coordinator_dead()
            if error_code not in (0, GroupAuthorizationFailedError.errno):  # the latter is the join's to tell
                raise for_code(error_code)()
            for _, instance, client_id, host, _, _ in members:
                if instance == self._group_instance_id and client_id != self._client._client_id:
                    return f"client {client_id} on {host.removeprefix('/')}"
        return None

    async def _on_join_complete(self, generation: int, member_id: str, protocol: str, assignment: bytes) -> None:
        if self._group_subscription is None:  # type: ignore[has-type]
            # A restarted leader is given its old place without being asked to lead: somebody has to look for new
            # partitions all the same.
            self._group_subscription = set(self._subscription.topics)
            self._metadata_snapshot = self._get_metadata_snapshot()
        self._partitions_at_join = dict(self._metadata_snapshot)
        await super()._on_join_complete(generation, member_id, protocol, assignment)

    def _on_metadata_change(self) -> None:
        """Join anew for what was added; a broker that is away makes topics vanish for a moment."""
        if any(count > self._partitions_at_join.get(topic, 0) for topic, count in self._metadata_snapshot.items()):
            super()._on_metadata_change()

    # ---- staying and leaving

    async def _do_heartbeat(self) -> bool:
        return not self._fenced and bool(await super()._do_heartbeat())

    async def is_ours(self) -> bool:
        """Does the group, asked now, know us by our name? False also when it does not answer."""
        if self._fenced or not self.member_id:
            return False
        try:
            await self.ensure_coordinator_known()
            response = await self._send_req(
                Heartbeat(self.group_id, self.generation, self.member_id, self._group_instance_id)
            )
        except KafkaError:
            return False
        return response.error_code in (0, RebalanceInProgressError.errno)

    async def _maybe_leave_group(self) -> None:
        if self.generation > 0 and not self._fenced:
            await self._leave_or_remain()
        self.reset_generation()

    async def _leave_or_remain(self) -> None:
        name, kept_s = self._group_instance_id, self._session_timeout_ms / 1000
        if not self._leaves():
            log.info("%r keeps its place in the group: back within %g s, it goes on", name, kept_s)
            return
        try:
            await self._send_req(LeaveGroup(self.group_id, self.member_id, name))
            log.info("left the group as %r, for good", name)
        except KafkaError as error:
            log.error("the group was not left, it will notice by itself: %s", error)


class GroupConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """A consumer that is a :class:`GroupMember`. It must be started before it subscribes."""

    def __init__(self, *, group_instance_id: str, on_fenced: OnFenced, leaves: Leaves, **options: Any) -> None:
        self._assignor = KeepingAssignor()
        self._on_fenced = on_fenced
        self._leaves = leaves
        super().__init__(group_instance_id=group_instance_id, partition_assignment_strategy=[self._assignor], **options)

    async def start(self) -> None:
        """Connect. The coordinator that aiokafka makes has not joined yet, and gives way to ours."""
        await super().start()
        await self._coordinator.close()  # type: ignore[has-type]
        self._coordinator = GroupMember(
            self._client,
            self._subscription,
            assignor=self._assignor,
            on_fenced=self._on_fenced,
            leaves=self._leaves,
            group_id=self._group_id,
            group_instance_id=self._group_instance_id,
            heartbeat_interval_ms=self._heartbeat_interval_ms,
            session_timeout_ms=self._session_timeout_ms,
            retry_backoff_ms=self._retry_backoff_ms,
            enable_auto_commit=self._enable_auto_commit,
            auto_commit_interval_ms=self._auto_commit_interval_ms,
            exclude_internal_topics=self._exclude_internal_topics,
            rebalance_timeout_ms=self._rebalance_timeout_ms,
            max_poll_interval_ms=self._max_poll_interval_ms,
        )
