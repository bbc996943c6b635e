"""Kafka and all processes on one machine, for development: `turnlog up`.

Starts processes, imports no part of a worker.
"""
