"""What is held of a history says as much as all of it: the view, and what a history compaction would do."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.event_logs import LogWriter, random_log
from turnlog_streams.history.compaction import HistoryCompactionPolicy, SummarySettings
from turnlog_streams.history.compaction_plan import SessionHistory, plan, session_tokens
from turnlog_streams.history.messages import of_turn
from turnlog_streams.history.view import assemble
from turnlog_streams.history.window import window_of

LOGS = st.builds(random_log, st.integers(0, 2**32), st.integers(60, 250), sessions=st.integers(1, 2))


@given(LOGS, st.integers(30, 400), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_views_and_plans_are_those_of_the_whole_history(log: LogWriter, limit: int, keep_tail: int) -> None:
    policy = HistoryCompactionPolicy(max_tokens=limit, keep_tail=keep_tail)
    for session_id, session in log.sessions.items():
        whole, state = log.histories.get(session_id, []), session.history_compaction
        held = window_of(state.summary, session.question_seq).of(whole)
        assert [message for message in held if message.message_seq > state.covered_to] == whole[state.covered_to :]
        for keep_open in (True, False):
            view = assemble(held, state.summary, keep_open_calls=keep_open)
            assert view == assemble(whole, state.summary, keep_open_calls=keep_open)
        if session.running is not None:
            assert of_turn(held, session.running) == of_turn(whole, session.running)
        of_all = SessionHistory(session_id=session_id, messages=whole, state=state, measure=session.measure)
        of_held = replace(of_all, messages=held)
        assert session_tokens(of_held) == session_tokens(of_all)
        made = SummarySettings(model="m", prompt_version="1", max_summary_tokens=50)
        for trigger in ("automatic", "manual"):
            assert plan(of_held, policy, made, trigger=trigger) == plan(of_all, policy, made, trigger=trigger)
