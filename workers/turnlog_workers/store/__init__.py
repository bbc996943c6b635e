"""A worker's own DuckDB files: one for each partition that it owned, rebuilt from the log when in doubt."""
