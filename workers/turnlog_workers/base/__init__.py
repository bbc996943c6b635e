"""What every room of a worker stands on: settings, logging, watched tasks, the ports of Kafka.

Imports no other room.
"""
