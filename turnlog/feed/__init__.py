"""Recorded conversations fed through Kafka, and the proof that the stored histories equal them. Prints nothing."""
