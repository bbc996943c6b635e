"""Accepted events to the rows of tables. It decides nothing."""
