"""A suite for the authors of runners: subclass :class:`RunnerConformance` and run pytest."""

from turnlog.testing.conformance import RunnerConformance

__all__ = ["RunnerConformance"]
