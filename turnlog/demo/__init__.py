"""``turnlog demo``: a stack of its own, conversations through it, workers killed in the middle, and the proof."""
