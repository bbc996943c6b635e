"""An event loop in a thread of its own, for code that has none, or must not wait on the one it has."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """Its connections live on while the thread that uses it does something else. Ends with :meth:`close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="turnlog", daemon=True)
        self._thread.start()

    def start(self, step: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there, and do not wait for it."""
        return asyncio.run_coroutine_threadsafe(step, self._loop)

    def wait(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for what it returns or raises; a Ctrl-C meanwhile cancels it."""
        future = self.start(step)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread. May be called again."""
        if not self._thread.is_alive():
            return
        self.wait(_end_everything())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _end_everything() -> None:
    """Cancel what still runs, and see it end: a loop that is closed over its tasks warns of each of them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
