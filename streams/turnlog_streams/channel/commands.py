"""What a channel can be told."""

from dataclasses import dataclass

from turnlog_schemas import commands as cmd
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.refusals import Refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeChannel:
    """A request to create, resolve, rotate to or archive a session, decoded."""

    request_id: str
    command_hash: str
    command: cmd.ChannelRequest
    session_id: str | None  #: of the request's header: the id to create, the session to archive
    new_ids: tuple[str, ...]  #: candidates for the id of a session that it opens
    reply: ReplyAddress


ChannelCommand = ChangeChannel | Refuse | ReceiveForward | ReceiveReceipt
