"""Requests on their way in: from fetched records to what a shard can decide. Decides nothing."""
