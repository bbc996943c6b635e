"""The model's process: one a machine and user, started by the first worker that needs it, found by the others.

``python -m turnlog_workers.runners.smollm2.server CONFIG`` (a JSON object) loads the model and lets llama.cpp's own
HTTP server listen on a Unix socket. It ends when its last user has left, a while after its last user has died (another
worker goes on with the turn), when nobody has asked it anything for long, or at SIGTERM.

A load holds the interpreter's lock for its whole time, so it is no work for a worker's process; and each load takes the
memory once more. Prompts are read in small batches: between two of them the server gives the other slots their next
token and notices who has gone, which in one large batch would take as long as the whole prompt.
"""

import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnlog_workers.runners.smollm2.runtime_dir import RuntimeDir, ServerInfo

EXIT_TAKEN = 3  #: another process is the machine's model process
_TAKEN_TIMEOUT_S = 5.0  #: for a predecessor that is ending
_POLL_S = 0.25
_BATCH_TOKENS = 64
_PROMPT_CACHE_MIB = 256  #: of prompts that lost their slot to another session
_QUIET_LOG = 2  #: warnings and errors
_COUNTER = re.compile(
    r"^llamacpp:(prompt_tokens_total|tokens_predicted_total|requests_processing|requests_deferred) (\S+)$", re.M
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How the process is started."""

    directory: str
    model: str
    threads: int
    slots: int
    context_tokens: int  #: of one slot
    idle_timeout_s: float
    linger_s: float  #: after the last user has died without a word


def main(arguments: Sequence[str]) -> int:
    """Serve until nobody needs the model; the exit code."""
    config = ServerConfig(**json.loads(arguments[0]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory = RuntimeDir(Path(config.directory))
    deadline = time.monotonic() + _TAKEN_TIMEOUT_S
    while not directory.try_server_lock():
        if time.monotonic() > deadline:
            print("another process is this machine's model process, and does not answer", file=sys.stderr)
            return EXIT_TAKEN
        time.sleep(_POLL_S)
    directory.withdraw()  # what a predecessor left
    server = _load(config, directory)
    directory.publish(
        ServerInfo(
            pid=os.getpid(),
            socket=str(directory.socket),
            context_tokens=config.context_tokens,
            slots=config.slots,
            threads=config.threads,
        )
    )
    _Watch(config, directory, server).until_unused(stop)
    directory.withdraw()
    del server
    return 0


def _load(config: ServerConfig, directory: RuntimeDir) -> Any:
    engine: Any = importlib.import_module("xllamacpp")  # no dependency: packages.py says why
    params = engine.CommonParams()
    params.model.path = config.model
    params.hostnames = [str(directory.socket)]
    params.n_parallel = config.slots
    params.n_ctx = config.slots * config.context_tokens
    params.kv_unified = False
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.endpoint_metrics = True
    params.verbosity = _QUIET_LOG
    return engine.Server(params)


class _Watch:
    """Who uses the process, and how much."""

    def __init__(self, config: ServerConfig, directory: RuntimeDir, server: Any) -> None:
        self._config, self._directory, self._server = config, directory, server
        self._keep_until = time.monotonic() + config.linger_s  # whoever started it may have died meanwhile
        self._seen: dict[str, str] = {}
        self._used_at = time.monotonic()
        self._look_every_s = min(5.0, config.idle_timeout_s / 4)
        self._next_look = 0.0

    def until_unused(self, stop: threading.Event) -> None:
        """Return when the process should end: nobody can join any more."""
        while not stop.wait(_POLL_S):
            found = self._directory.server()
            if found is None or found.pid != os.getpid():
                return  # the folder was emptied: nobody finds this process
            if self._unused() or self._idle():
                with self._directory.try_start_lock() as nobody_joins:
                    if nobody_joins and (self._unused() or self._idle()):
                        self._directory.withdraw()
                        return

    def _unused(self) -> bool:
        users = self._directory.users()
        if users.living or users.left:
            self._keep_until = 0.0
        if users.died:
            self._keep_until = time.monotonic() + self._config.linger_s
        return not users.living and time.monotonic() >= self._keep_until

    def _idle(self) -> bool:
        """Has nobody asked it anything for long?"""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._look_every_s
            seen = dict(_COUNTER.findall(self._server.handle_metrics()))
            busy = any(seen.get(f"requests_{state}", "0") != "0" for state in ("processing", "deferred"))
            if busy or seen != self._seen:
                self._seen, self._used_at = seen, now
        return now - self._used_at > self._config.idle_timeout_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
