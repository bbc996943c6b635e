"""The materializer process: every partition's log to the analysts' file.

Shares the store's tables, nothing of a shard.
"""
