"""Kafka as it is: the adapters behind ``base.ports``, clients that end, topics made and read.

Knows nothing of shards.
"""
