"""Throughput and latency of one worker, beside a bare Faust agent that sends as many records: ``make bench``."""
