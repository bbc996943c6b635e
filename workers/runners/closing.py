"""Closing runners: bounded, and never somebody else's problem."""

import asyncio
import logging

from workers.runners.base import Runner

log = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 5.0


async def close_runner(runner: Runner, session_id: str) -> None:
    """Free what a runner holds; one that cannot be closed is only told of in the log."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await runner.aclose()
    except Exception as error:
        log.warning("closing a runner failed: %s", type(error).__name__, extra={"session": session_id})
