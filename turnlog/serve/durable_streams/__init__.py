"""Durable Streams, the read side: a session's reply frames as a stream that is read from any offset, at any time.

``protocol.py`` is what the protocol says, pure; ``reading.py`` answers a request from any source; ``frames.py`` is the
source that a session or a turn is; ``endpoints.py`` has the paths.
"""
