"""docs/runners.md: its example is a runner that works, with nothing but what `turnlog.runner` names."""

import re
from pathlib import Path
from typing import Any

import turnlog.runner
from turnlog.runner import AssistantMessage, TextDelta, TurnInput, text_content
from turnlog_streams.policy import Policy
from turnlog_workers.runners import base
from turnlog_workers.runners.registry import RunnerRegistry

PAGE = (Path(__file__).resolve().parents[2] / "docs/runners.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def example() -> dict[str, Any]:
    code, _ = blocks()
    assert set(re.findall(r"^from (\S+) import", code, flags=re.MULTILINE)) == {"collections.abc", "turnlog.runner"}
    names: dict[str, Any] = {}
    exec(code, names)
    return names


async def test_the_example_answers() -> None:
    registry = RunnerRegistry({"shout": example()["factory"]})
    turn = TurnInput(
        session_id="s",
        turn_id="t",
        attempt=1,
        turn_number=1,
        fencing_token=1,
        model="shout:",
        instructions=None,
        user_content=text_content("hello"),
    )
    outputs = [output async for output in registry.make("shout:").run(turn)]
    assert [type(output) for output in outputs] == [TextDelta, AssistantMessage]
    assert outputs[0].text == "HELLO"  # type: ignore[union-attr]


def test_the_example_passes_the_suite_of_the_page() -> None:
    names: dict[str, Any] = {}
    exec(blocks()[1], names)
    suite = names["TestShouting"]()
    suite.make_runner = example()["factory"]
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert len(tests) > 8
    for name in tests:
        getattr(suite, name)()


def test_the_allow_list_of_the_page_allows_it() -> None:
    (patterns,) = re.findall(r"TURNLOG_ALLOW_MODELS=(\S+?)`", PAGE)
    assert Policy(allow_models=tuple(patterns.split(","))).allows("shout:")


def test_all_that_the_protocol_names_is_public() -> None:
    """A plug-in that must import from a worker's rooms breaks with them."""
    mine = {name for name, thing in vars(base).items() if getattr(thing, "__module__", "") == base.__name__}
    given = {"NoTools", "NO_PARAMS", "NO_TOOLS", "NO_USAGE", "no_such_tool"}  # a turn has them; nobody need name them
    assert (mine | {name for name in vars(base) if name.isupper()}) - given <= set(turnlog.runner.__all__)
    assert all(hasattr(turnlog.runner, name) for name in turnlog.runner.__all__)
