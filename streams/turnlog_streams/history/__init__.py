"""The history of a session: whole messages, what of it a model sees, and its compaction. Decides nothing."""
