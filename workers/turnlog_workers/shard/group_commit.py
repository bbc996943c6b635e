"""The group commit, and what becomes of a group that the broker refuses: it is taken back and decided again, in smaller
groups, until the decision is alone that the broker does not take. That one is refused, parked or failed; the others go
on, and so does the partition: nothing of a refused group is in the log.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable

from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import RecordsRefusedError
from turnlog_workers.shard.run_ahead import Group, RunAhead

log = logging.getLogger(__name__)
_SMALL_FOR_S = 60.0  #: then somebody may have given the topic its limit back


class GroupCommit:
    """Commits what is decided, group by group."""

    def __init__(
        self,
        run_ahead: RunAhead,
        commit: Callable[[Group], Awaitable[None]],
        *,
        now: Callable[[], float],
        partition: int,
    ) -> None:
        self._run_ahead = run_ahead
        self._commit = commit
        self._now = now
        self._place = at(partition=partition)
        self._small_until = 0.0

    async def everything(self) -> None:
        """Every group that was decided. Raises what an append raises, :class:`RecordsRefusedError` excepted."""
        if self._small_until and self._now() > self._small_until:
            self._small_until = 0.0
            self._run_ahead.group_bytes = None
        groups = deque(self._run_ahead.take_groups())
        while groups:
            group = groups.popleft()
            try:
                await self._commit(group)
            except RecordsRefusedError as error:
                await self._again([group, *groups], error)
                groups = deque(self._run_ahead.take_groups())

    async def _again(self, groups: list[Group], error: RecordsRefusedError) -> None:
        """Take back what is not in the log, and decide it again; the first of these groups was refused."""
        first, decisions = groups[0], [decision for group in groups for decision in group.decisions]
        self._run_ahead.take_back(groups)
        if len(first.decisions) > 1:
            self._small_until = self._now() + _SMALL_FOR_S
            self._run_ahead.group_bytes = first.size_bytes // 2
            log.warning(
                "%d decisions are decided again, in smaller groups: %s", len(decisions), error, extra=self._place
            )
        else:
            guilty = decisions.pop(0)
            log.error("what one decision leads to cannot be stored: %s", error, extra=self._place)
            await guilty.refused(error)
        for decision in decisions:
            await decision.again()
