"""Whose name it is, when the broker says that a name was taken (error 82)."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import RebalanceInProgressError
from aiokafka.protocol.group import HeartbeatRequest

from turnlog_workers.membership.group_member import GroupMember
from turnlog_workers.membership.group_protocol import FENCED_INSTANCE_ID


def member(member_id: str, ended: list[str]) -> GroupMember:
    made = GroupMember.__new__(GroupMember)
    made.group_id, made._group_instance_id, made.generation, made.member_id = "g", "w1", 7, member_id
    made._fenced, made._on_fenced = False, ended.append
    return made


async def heartbeat(one: GroupMember, member_id_then: str) -> None:
    """A heartbeat that is answered when the member has another id."""

    async def fenced(self: GroupMember, request: Any) -> Any:
        self.member_id = member_id_then
        return SimpleNamespace(error_code=FENCED_INSTANCE_ID)

    with patch.object(GroupCoordinator, "_send_req", fenced), pytest.raises(RebalanceInProgressError):
        await one._send_req(HeartbeatRequest("g", 7, one.member_id))


async def test_another_process_took_the_name() -> None:
    ended: list[str] = []
    await heartbeat(member("m-1", ended), "m-1")
    (sentence,) = ended
    assert "another process has joined the group 'g' as 'w1'" in sentence


@pytest.mark.parametrize(("before", "then"), [("m-1", ""), ("m-1", "m-2"), ("", ""), ("", "m-2")])
async def test_it_was_our_own_new_join(before: str, then: str) -> None:
    ended: list[str] = []
    one = member(before, ended)
    await heartbeat(one, then)
    assert ended == []
    assert not one._fenced
