"""The channel aggregate: which sessions a channel has, and which of them is the active one."""
