"""Copies of the published snapshot for other tools: files by day, conversations, a DuckLake. Prints nothing."""
