"""Requests pass Faust as they are."""

from types import SimpleNamespace
from typing import Any, cast

import faust
import pytest

from turnlog_workers.process.faust_app import AsTheyAre


@pytest.mark.parametrize(("key", "value"), [(b"k", b"v"), (None, b"v"), (b"k", b""), (b"k", None)])
async def test_an_event_is_what_faust_makes_of_raw_bytes(key: bytes | None, value: bytes | None) -> None:
    app = faust.App("test", datadir="unused", web_enabled=False, autodiscover=False)
    kinds: Any = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    message = cast(Any, SimpleNamespace(key=key, value=value, headers=[("h", b"1")]))
    theirs = await faust.Schema(**kinds).compile(app)(message, propagate=True)
    ours = await AsTheyAre(**kinds).compile(app)(message, propagate=True)
    assert type(ours) is type(theirs)
    assert (
        (ours.key, ours.value, ours.headers) == (theirs.key, theirs.value, theirs.headers) == (key, value, {"h": b"1"})
    )
    assert ours.message is message
