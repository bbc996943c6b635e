"""Accepted events to the folded state of streams, and to the rows in which a store keeps it. It decides nothing."""
