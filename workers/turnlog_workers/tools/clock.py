"""The tool ``clock``: what time it is. Models do not know."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from turnlog_workers.tools.base import ToolError
from turnlog_workers.tools.function_tool import tool

_MAX_NAME_CHARACTERS = 100


@tool(idempotent=True)
async def clock(timezone: str = "UTC") -> str:
    """The current date and time, with the day of the week.

    Args:
        timezone: a name of the IANA time zone database, such as Europe/Berlin.
    """
    zone: ZoneInfo | None = None
    if timezone not in ("", "UTC"):
        try:
            zone = ZoneInfo(timezone[:_MAX_NAME_CHARACTERS])
        except (KeyError, ValueError, OSError) as error:
            raise ToolError(f"there is no time zone {timezone[:_MAX_NAME_CHARACTERS]!r} here") from error
    now = datetime.now(UTC).astimezone(zone or UTC)
    return f"{now.isoformat(timespec='seconds')} ({now:%A})"
