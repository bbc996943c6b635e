"""The published snapshot: sessions listed, histories read, anybody's SQL within bounds. Needs DuckDB, and no broker."""
