"""The consumer group: a worker's name, its place in the group, who gets which partitions. Knows nothing of requests."""
