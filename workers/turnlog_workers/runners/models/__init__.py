"""Runners that ask real models over the network, and what they share: event streams, messages, faults, steps."""
