"""Going on from a response: only directly behind it, whoever else goes on from there at the same time.

The session's owner decides, by the turn that the chat is to come behind. Its refusals are kept with the request's id,
so what was refused because of something that has passed since is asked again under the next id of the same request.
"""

from collections.abc import Awaitable, Callable

from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import HttpError, bad_request
from turnlog.serve.openai.destination import Destination, no_response
from turnlog.serve.session_lookups import SessionNow, session_now
from turnlog.serve.turn_ids import TurnRef, turn_ref
from turnlog.serve.turns import Begun

_MAX_IDS = 8
_REFUSED = ("busy", "not_newest")
_WHERE = "previous_response_id"

#: Ask under a request id. Raises what refuses it.
Begin = Callable[[str], Awaitable[Begun]]


async def begun_behind(call: Call, goes: Destination, behind: TurnRef, begin: Begin) -> Begun:
    """The turn behind another one, or the one that this very request began before. Raises 400 and 404."""
    for number in range(_MAX_IDS):
        try:
            return await begin(f"{goes.request_id}-{number}" if number else goes.request_id)
        except HttpError as error:
            if error.code not in _REFUSED:
                raise
            await _check_passed(call, behind, error.code)
    raise _in_progress()


async def _check_passed(call: Call, behind: TurnRef, code: str) -> None:
    """Has what refused it passed? Else raises what the request is told."""
    now = await session_now(call.gateway.client, behind.session_id)
    if now is None:
        raise no_response(behind.response_id)
    if now.newest_turn_id == behind.turn_id:
        if now.open_turns:
            raise _in_progress()
    elif code == "not_newest":
        await _check_exists(call, now, behind)
        raise bad_request(
            "fork",
            "the previous response is not the newest of its conversation; to fork one is not possible yet: go on from "
            "the newest, or send what it should begin with as input",
            _WHERE,
        )


def _in_progress() -> HttpError:
    return bad_request("response_in_progress", "the previous response has not ended: wait for it", _WHERE)


async def _check_exists(call: Call, now: SessionNow, turn: TurnRef) -> None:
    """404 for a turn that there never was. One whose request is gone from its topic may have been."""
    newest = turn_ref(turn.session_id, now.newest_turn_id or "")
    if newest is None or newest.partition != turn.partition or turn.offset > newest.offset:
        raise no_response(turn.response_id)
    if await call.gateway.turns.records.request(turn) is not None:
        return
    page = await call.gateway.client.history(turn.session_id, limit=1)
    first = turn_ref(turn.session_id, page.messages[0].turn_id) if page.messages else None
    if first is not None and turn.offset <= first.offset:
        raise no_response(turn.response_id)
