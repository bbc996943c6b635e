"""What processes import at their start: each library costs CPU time at every start of every process."""

import subprocess
import sys

import pytest

_WORKER = "from turnlog_workers.process.faust_import import import_faust; import_faust(); "


def imported(code: str, names: str) -> list[str]:
    """Which of these modules a new interpreter has after the code."""
    program = f"import sys; {code}; print(*[name for name in {names.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("process", "code", "names"),
    [
        ("worker", f"{_WORKER}import turnlog_workers.process.faust_app", "aiohttp httpx typer psutil"),
        ("broker", "import turnlog_workers.devstack.broker", "pydantic aiokafka faust duckdb asyncio"),
        ("up", "import turnlog_workers.devstack.stack, turnlog_workers.devstack.stack_topics", "aiokafka kafka duckdb"),
        ("any command", "import turnlog.cli.app", "pydantic aiokafka kafka faust duckdb aiohttp"),
    ],
)
def test_what_a_process_does_not_need_is_not_imported(process: str, code: str, names: str) -> None:
    assert imported(code, names) == []


def test_an_http_client_that_is_imported_later_is_the_real_one() -> None:
    code = f"{_WORKER}import faust.app; from aiohttp.client import ClientSession; assert ClientSession is not object"
    assert imported(code, "aiohttp") == ["aiohttp"]
