"""Talking to sessions over Kafka: requests out, replies in, both for asyncio and for ordinary code.

`pip install turnlog` is enough for it. Of the other rooms it knows the snapshot's list of sessions.
"""
