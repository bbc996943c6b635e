"""Three requests of Kafka's group protocol in the versions that know ``group.instance.id``, which aiokafka lacks.

Heartbeat 3, LeaveGroup 3 and DescribeGroups 4, with the fields of the protocol guide, https://kafka.apache.org/protocol.
"""

# mypy: disable-error-code=misc
# aiokafka's classes are without types.

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

FENCED_INSTANCE_ID = 82


class HeartbeatResponse3(Response):
    """``error_code`` 82: another process has taken the name."""

    API_KEY = 12
    API_VERSION = 3
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16))


class HeartbeatRequest3(RequestStruct):
    """A heartbeat that names its instance."""

    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = HeartbeatResponse3
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class LeaveGroupResponse3(Response):
    """One error code for the request, one for each member."""

    API_KEY = 13
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "members",
            Array(
                ("member_id", String("utf-8")),
                ("group_instance_id", String("utf-8")),
                ("error_code", Int16),
            ),
        ),
    )


class LeaveGroupRequest3(RequestStruct):
    """Members that leave for good."""

    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = LeaveGroupResponse3
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")))),
    )


class DescribeGroupsResponse4(Response):
    """Who is in the group, with instance, client id and host."""

    API_KEY = 15
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("group_instance_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class DescribeGroupsRequest4(RequestStruct):
    """Groups to describe."""

    API_KEY = 15
    API_VERSION = 4
    RESPONSE_TYPE = DescribeGroupsResponse4
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class Heartbeat(Request[HeartbeatRequest3]):
    """A heartbeat that names its instance."""

    API_KEY = 12

    def __init__(self, group: str, generation: int, member_id: str, instance: str) -> None:
        self._fields = (group, generation, member_id, instance)

    def build(self, request_struct_class: type[HeartbeatRequest3]) -> Any:
        return request_struct_class(*self._fields)


class LeaveGroup(Request[LeaveGroupRequest3]):
    """One member leaves for good; only if it still has its name."""

    API_KEY = 13

    def __init__(self, group: str, member_id: str, instance: str) -> None:
        self._fields = (group, [(member_id, instance)])

    def build(self, request_struct_class: type[LeaveGroupRequest3]) -> Any:
        return request_struct_class(*self._fields)


class DescribeGroup(Request[DescribeGroupsRequest4]):
    """Who is in the group?"""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._fields = ([group], False)

    def build(self, request_struct_class: type[DescribeGroupsRequest4]) -> Any:
        return request_struct_class(*self._fields)
