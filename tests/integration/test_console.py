"""The console in a real Chromium, and the streams beside it, on a real broker with a worker and gateways."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console_snapshot import make_snapshot, markers
from tests.deployment import START_S
from tests.http_node import run_node
from tests.http_stack import HttpStack, http_stack, start_gateway
from tests.waiting import until
from turnlog import SyncClient
from turnlog_workers.devstack.broker import DevBroker

SLOW = "script:slow?tools=0&words=2000&delta_ms=20"  #: 40 s, if nobody ends it
SHORT = "script:short?tools=1&words=80&delta_ms=20&reasoning=true"
MAX_PICTURE_BYTES = 200 * 1024
expect.set_options(timeout=30_000)
RAN = "Object.keys(window).filter((name) => name.startsWith('ran'))"


@pytest.fixture(scope="module")
def stack(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStack]:
    with http_stack(broker, tmp_path_factory.mktemp("http")) as made:
        yield made


@pytest.fixture(scope="module")
def client(stack: HttpStack) -> Iterator[SyncClient]:
    with SyncClient(stack.deployment.settings) as made:
        yield made


class Watched:
    """A page, and all that went wrong in it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.on("console", lambda said: self.problems.append(said.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        page.on("request", self._request)
        page.set_default_timeout(30_000)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(self.address):
            self.problems.append(f"asked {request.url}")

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.address}{path}")
        return self.page

    def check(self) -> None:
        """Nothing ran, nothing was refused, nothing else was asked for."""
        assert self.page.evaluate(RAN) == []
        assert self.problems == []


@pytest.fixture
def watched(chromium: Browser, stack: HttpStack) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1200, "height": 760})
    yield Watched(context.new_page(), stack.address)
    context.close()


@pytest.fixture(scope="module")
def shown(stack: HttpStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A gateway over a snapshot that a test puts there, and its address."""
    path = tmp_path_factory.mktemp("shown") / "snapshot.duckdb"
    process, address = start_gateway(stack.deployment, "second", snapshot_path=str(path))
    until(lambda: process.ready, "the second gateway is ready", START_S)
    yield path, address
    assert process.running


def put(path: Path, *, marked: bool) -> None:
    made = path.with_suffix(".new")
    make_snapshot(made, marked=marked).replace(path)


# ---- the console


def begin(page: Page, session_id: str, text: str, model: str) -> None:
    page.click("text=New session")
    for name, value in (("session_id", session_id), ("model", model), ("text", text)):
        page.fill(f"form[action='/console/sessions'] [name={name}]", value)
    page.click("form[action='/console/sessions'] button")


def test_an_answer_appears_as_it_is_generated_and_is_cancelled(watched: Watched, client: SyncClient) -> None:
    page = watched.open("/")
    begin(page, "web-live", "Hello *there*", SLOW)
    stream = page.locator("[data-part=text]")
    stream.wait_for()
    before = len(stream.inner_text())
    page.wait_for_function(
        "(before) => document.querySelector('[data-part=text]').innerText.length > before", arg=before
    )
    turn = page.locator("[data-turn]")
    expect(turn.locator(".settled .message.user em")).to_have_text("there")  # the snapshot has it, too
    assert turn.count() == 1
    page.click("button:text-is('Cancel')")
    expect(page.locator(".note.good")).to_have_text("The turn is cancelled.")
    expect(turn.locator(".badge.cancelled").first).to_be_visible()
    page.click("summary:text-is('Compact the history')")
    page.click("button:text-is('Compact')")
    expect(page.locator(".note.good")).to_contain_text("nothing to summarise")
    page.click("summary:text-is('Archive')")
    page.click("button:text-is('Archive it')")
    expect(page.locator(".note.good")).to_have_text("The session is archived.")
    assert client.get("web-live").archived
    watched.check()


def test_a_turn_with_tools_is_folded_and_is_there_once(watched: Watched) -> None:
    page = watched.open("/")
    begin(page, "web-tools", "Look", SHORT)
    turn = page.locator("[data-turn]")
    expect(turn.locator(".settled .badge.completed")).to_be_visible()
    expect(turn.locator("details.call")).to_have_count(1)
    assert not turn.locator("details.call pre").first.is_visible()
    turn.locator("details.call summary").click()
    assert turn.locator("details.call pre").first.is_visible()
    page.reload()
    expect(turn.locator(".settled .badge.completed")).to_be_visible()
    assert turn.count() == 1
    watched.check()


def test_lists_follow_and_keys_lead(watched: Watched, client: SyncClient) -> None:
    client.chat("web-keys-1", "First thing").result()
    page = watched.open("/?text=keys")
    expect(page.locator("tr[data-row]")).to_have_count(1)
    client.chat("web-keys-2", "Second thing").result()
    expect(page.locator("tr[data-row]")).to_have_count(2)  # without a reload
    expect(page.locator("tr[data-row] a").first).to_have_text("web-keys-2")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "text"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    for key in ("j", "j", "k", "j"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/sessions/web-keys-1")
    page.keyboard.press("u")
    page.wait_for_url(f"{watched.address}/")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/console/topology")
    expect(page.locator("tr[data-row]")).to_have_count(3)
    expect(page.locator("tr[data-row] code").first).to_have_text("w0")
    watched.check()


ENTER_BEFORE_THE_PAGE_IS_DRAWN_AGAIN = """() => {
    const help = document.querySelector("[data-keys]");
    help.showModal();
    help.close();
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
}"""


def test_enter_opens_the_row_also_right_after_the_help_was_closed(watched: Watched, client: SyncClient) -> None:
    client.chat("web-enter", "Hi").result()
    page = watched.open("/?text=enter")
    expect(page.locator("tr[data-row]")).to_have_count(1)
    page.keyboard.press("j")
    page.evaluate(ENTER_BEFORE_THE_PAGE_IS_DRAWN_AGAIN)
    page.wait_for_url("**/console/sessions/web-enter")
    watched.check()


def test_ids_are_copied_and_the_dark_is_dark(watched: Watched, client: SyncClient) -> None:
    client.chat("web-copy", "Hi").result()
    page = watched.open("/console/sessions/web-copy")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("[data-head] .copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()") == "web-copy"
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != light
    watched.check()


def test_events_and_records_are_as_the_log_has_them(watched: Watched, client: SyncClient) -> None:
    client.chat("web-log", "Hi").result()
    page = watched.open("/")
    page.locator("tr[data-row]", has_text="web-log").wait_for()
    page = watched.open("/console/sessions/web-log/events")
    expect(page.locator("tr[data-row]").first).to_contain_text("SessionCreated")
    page.locator("tr[data-row] a").first.click()
    expect(page.locator("h1")).to_have_text(re.compile(r"\.events\[\d\]@\d+"))
    expect(page.locator("table")).to_contain_text("turnlog.events.SessionCreated")
    expect(page.locator("pre").nth(1)).to_contain_text('"type": "session_created"')
    watched.check()


def test_sql_is_charted_and_kept(watched: Watched, client: SyncClient) -> None:
    client.chat("web-sql", "Hi").result()
    page = watched.open("/")
    page.locator("tr[data-row]", has_text="web-sql").wait_for()
    page = watched.open("/console/sql")
    page.fill("[name=q]", "SELECT role, count(*) AS messages FROM messages GROUP BY 1")
    page.select_option("[name=chart]", "bar")
    page.click("button:text-is('Run')")
    page.locator("svg.chart rect").first.wait_for()
    page.fill("[name=name]", "by-role")
    page.click("button:text-is('Save')")
    expect(page.locator(".note.good")).to_have_text("The query is saved.")
    page.click("a:text-is('by-role')")
    assert page.input_value("[name=q]").startswith("SELECT role")
    page.click("[aria-label='Delete by-role']")
    expect(page.locator(".note.good")).to_have_text("The saved query is deleted.")
    assert client.get_settings() == {}
    watched.check()
    watched.open("/console/sql?q=DROP+TABLE+messages")
    expect(page.locator(".note.bad")).to_contain_text("read-only")


def test_nothing_that_strangers_wrote_runs(
    chromium: Browser, stack: HttpStack, client: SyncClient, shown: tuple[Path, str]
) -> None:
    blank = chromium.new_page()
    blank.set_content(markers()[1])
    blank.wait_for_function("window.ran1 === 1")  # they would
    blank.close()
    path, address = shown
    put(path, marked=True)
    context = chromium.new_context()
    watched = Watched(context.new_page(), address)
    for place in (
        "/",
        "/?text=%3Cscript%3Ewindow.ran0%3D1%3C/script%3E&channel=%22%3E%3Cimg+src=x+onerror=window.ran1=1%3E",
    ):
        watched.open(place)
        watched.check()
    for place in (
        "/console/sessions/odd-1",
        "/console/sessions/odd-1/events",
        "/console/dead-letters",
        "/console/sql?q=FROM+messages",
    ):
        page = watched.open(place)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.locator("a[href^='javascript' i], a[href^='data' i], main img, main iframe").count() == 0
        watched.check()
    live = Watched(context.new_page(), stack.address)
    client.chat("web-odd", "begin", new_session=None).result()
    page = live.open("/console/sessions/web-odd")
    expect(page.locator("[data-live-state]")).to_have_text("live")
    for number, marker in enumerate(markers()):
        client.enqueue("web-odd", marker.replace("\0", ""), request_id=f"odd-{number}")
    expect(page.locator("[data-turn][data-open=no]")).to_have_count(len(markers()) + 1)
    live.check()
    context.close()


def test_pictures(chromium: Browser, shown: tuple[Path, str], tmp_path: Path) -> None:
    """Of the README; ``make pictures`` puts them there."""
    path, address = shown
    put(path, marked=False)
    for scheme, places in (("light", {"sessions": "/"}), ("dark", {"transcript": "/console/sessions/web-1"})):
        context = chromium.new_context(viewport={"width": 1180, "height": 700}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        for name, place in places.items():
            page.goto(f"{address}{place}")
            expect(page.locator("[data-live-state]")).to_have_text("live")
            picture = tmp_path / f"console-{name}.png"
            page.screenshot(path=picture)
            assert 10_000 < picture.stat().st_size <= MAX_PICTURE_BYTES
            if (folder := os.environ.get("PICTURES")) is not None:
                shutil.copy(picture, folder)
        context.close()


# ---- Durable Streams


def frames_of(text: str) -> list[str]:
    return [frame["frame"]["type"] for frame in json.loads(text)]


def test_a_turn_is_a_stream_that_its_terminal_frame_closes(stack: HttpStack, client: SyncClient) -> None:
    done = client.chat("web-stream", "Hi", model=SHORT).result()
    client.chat("web-stream", "Again").result()
    of_turn = f"{stack.address}/v1/stream/sessions/web-stream/turns/{done.turn_id}"
    whole = httpx2.get(of_turn)
    assert whole.headers["stream-closed"] == "true"
    kinds = frames_of(whole.text)
    assert (kinds[0], kinds[-1]) == ("turn_accepted", "turn_completed")
    assert httpx2.get(of_turn).text == whole.text, "what is at an offset never changes"
    again = httpx2.get(of_turn, headers={"if-none-match": whole.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
    end = whole.headers["stream-next-offset"]
    tail = httpx2.get(of_turn, params={"offset": end, "live": "long-poll"})
    assert (tail.status_code, tail.headers["stream-closed"]) == (204, "true")
    head = httpx2.head(of_turn)
    assert (head.headers["stream-next-offset"], head.headers["stream-closed"]) == (end, "true")
    of_session = httpx2.get(f"{stack.address}/v1/stream/sessions/web-stream")
    assert frames_of(of_session.text)[: len(kinds)] == kinds
    assert "stream-closed" not in of_session.headers
    assert of_session.headers["stream-up-to-date"] == "true"
    for path in ("sessions/web-nowhere", "sessions/web-stream/turns/t-0-999", "sessions/web-stream/turns/x", "__ds/x"):
        assert httpx2.get(f"{stack.address}/v1/stream/{path}", timeout=30).status_code == 404
    refused = httpx2.post(of_turn, content=b"x")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert httpx2.get(of_turn, params={"offset": "soon"}).status_code == 400


def test_a_stream_is_followed_from_any_offset_without_a_gap(stack: HttpStack, client: SyncClient) -> None:
    sent = client.enqueue("web-follow", "Hi", model=SHORT)
    address = f"{stack.address}/v1/stream/sessions/web-follow"
    until(lambda: httpx2.head(address, timeout=30).status_code == 200, "the session is there", START_S)
    seen: list[dict[str, Any]] = []
    offset, cuts = "-1", 0
    told: dict[str, int] = {}  # how many messages there are before an offset
    ended = False
    while not ended:
        with httpx2.stream("GET", address, params={"offset": offset, "live": "sse"}, timeout=30) as events:
            assert events.headers["content-type"] == "text/event-stream"
            for number, line in enumerate(events.iter_lines()):
                if line.startswith("data:["):
                    seen += json.loads(line[5:])
                elif line.startswith("data:{"):
                    offset = json.loads(line[5:])["streamNextOffset"]
                    told[offset] = len(seen)
                    ended = any(frame["frame"]["type"] == "turn_completed" for frame in seen)
                    if ended or number > 12 * cuts:  # behind a control event: go on from its offset
                        cuts += 1
                        break
    whole = json.loads(httpx2.get(address).text)
    assert seen == whole[: len(seen)]
    assert told
    for place, before in told.items():  # whatever came together on a busy machine
        assert json.loads(httpx2.get(address, params={"offset": place}).text) == whole[before:]
    assert sent.request_id in {frame["request_id"] for frame in seen}
    late = httpx2.get(address, params={"offset": "now"})
    assert (late.text, late.headers["stream-up-to-date"]) == ("[]", "true")


# ---- AG-UI


def agui(thread: str, run: str, text: str) -> dict[str, Any]:
    return {"threadId": thread, "runId": run, "messages": [{"id": "mine", "role": "user", "content": text}]}


def events_of(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line[6:])


def test_a_run_is_a_turn_and_the_same_run_is_the_same_turn(
    stack: HttpStack, client: SyncClient, tmp_path: Path
) -> None:
    recorded = []
    for _ in range(2):
        with httpx2.stream(
            "POST", f"{stack.address}/agui", json=agui("web-agui", "run-1", "Hi *you*"), timeout=30
        ) as answer:
            recorded.append(list(events_of(answer.iter_lines())))
    first, again = recorded
    assert [event["type"] for event in first if not event["type"].endswith("CONTENT")] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert [event["type"] for event in again] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    asked, answered = again[1]["messages"]
    assert (asked["id"], asked["content"]) == ("mine", "Hi *you*")
    assert answered["id"] == first[1]["messageId"]
    for events in recorded:
        assert complaints(events, tmp_path) == ""
    assert len(client.history("web-agui").messages) == 2


def complaints(events: list[dict[str, Any]], folder: Path) -> str:
    """What ag-ui-validate says."""
    file = folder / "run.sse"
    file.write_text("".join(f"data: {json.dumps(event)}\n\n" for event in events))
    tool = Path(sys.executable).parent / "ag-ui-validate"
    done = subprocess.run([tool, "--no-color", str(file)], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_a_run_is_rejoined_where_it_is(stack: HttpStack, client: SyncClient, tmp_path: Path) -> None:
    client.create("agui", session_id="web-rejoin", model="script:agui?tools=1&words=400&delta_ms=20")
    told = ""
    with httpx2.stream("POST", f"{stack.address}/agui", json=agui("web-rejoin", "run-2", "Hi"), timeout=30) as answer:
        for event in events_of(answer.iter_lines()):
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                told += event["delta"]
                if len(told) > 100:
                    break  # gone; the turn goes on
    rejoin = {"threadId": "web-rejoin", "runId": "run-2"}
    with httpx2.stream("POST", f"{stack.address}/agui/rejoin", json=rejoin, timeout=30) as answer:
        events = list(events_of(answer.iter_lines()))
    assert [event["type"] for event in events[:2]] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert events[-1]["type"] == "RUN_FINISHED"
    assert complaints(events, tmp_path) == ""
    texts = {message["id"]: message.get("content", "") for message in events[1]["messages"]}
    for event in events[2:]:
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            texts[event["messageId"]] = texts.get(event["messageId"], "") + event["delta"]
    history = client.history("web-rejoin").messages
    stored = [
        "".join(part.text or "" for part in message.content or ()) for message in history if message.role == "assistant"
    ]
    assert [text for name, text in texts.items() if ".a" in name] == stored
    missing = httpx2.post(f"{stack.address}/agui/rejoin", json={**rejoin, "runId": "run-99"}, timeout=30)
    assert missing.status_code == 404


def run(stack: HttpStack, body: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx2.stream("POST", f"{stack.address}/agui", json=body, timeout=30) as answer:
        return list(events_of(answer.iter_lines()))


def test_a_client_s_tool_ends_the_run_and_its_output_is_the_next(
    stack: HttpStack, client: SyncClient, tmp_path: Path
) -> None:
    client.create("agui", session_id="web-tools-of-mine", model="script:agui?tools=0&client_calls=1")
    tools = [{"name": "ask_me", "description": "Asks.", "parameters": {"type": "object", "properties": {}}}]
    asked = agui("web-tools-of-mine", "run-1", "Ask me")
    first = run(stack, {**asked, "tools": tools})
    (begun,) = [event for event in first if event["type"] == "TOOL_CALL_START"]
    assert (begun["toolCallName"], first[-1]["type"]) == ("ask_me", "RUN_FINISHED")
    call = {"id": begun["toolCallId"], "type": "function", "function": {"name": "ask_me", "arguments": "{}"}}
    messages = [
        *asked["messages"],
        {"id": "theirs", "role": "assistant", "toolCalls": [call]},
        {"id": "answer", "role": "tool", "toolCallId": begun["toolCallId"], "content": "yes"},
    ]
    second = run(stack, {**asked, "runId": "run-2", "messages": messages, "tools": tools})
    assert [event["type"] for event in (second[0], second[-1])] == ["RUN_STARTED", "RUN_FINISHED"]
    for events in (first, second):
        assert complaints(events, tmp_path) == ""
    roles = [message.role for message in client.history("web-tools-of-mine").messages]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_a_new_thread_begins_with_what_was_said_elsewhere(stack: HttpStack, client: SyncClient) -> None:
    before = [
        {"id": "1", "role": "user", "content": "Before"},
        {"id": "2", "role": "assistant", "content": "An answer"},
    ]
    asked = agui("web-moved", "run-1", "Now")
    for _ in range(2):  # the second time it is there: the same run all the same
        events = run(stack, {**asked, "messages": [*before, *asked["messages"]]})
        assert events[-1]["type"] == "RUN_FINISHED"
    said = [(message.role, message.imported) for message in client.history("web-moved").messages]
    assert said == [("user", True), ("assistant", True), ("user", False), ("assistant", False)]


def test_ag_ui_s_own_client_has_the_conversation(stack: HttpStack, tmp_path: Path) -> None:
    said = run_node(tmp_path, "agui_client.mjs", f"{stack.address}/agui", "web-agui-js", "run-3", "Hello from node")
    found = json.loads(said)
    assert (found["types"][0], found["types"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert [(message["role"], message["content"]) for message in found["messages"]] == [
        ("user", "Hello from node"),
        ("assistant", "Hello from node"),
    ]
