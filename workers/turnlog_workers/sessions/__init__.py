"""A session at work: its turns and history compactions, one after the other, on a runner.

Talks to its shard by a host.
"""
