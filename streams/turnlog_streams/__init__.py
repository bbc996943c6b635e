"""The pure core: what a session is, what a command does to it, which events count. No await, no clock, no I/O."""
