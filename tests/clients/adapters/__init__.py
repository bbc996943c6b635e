"""One small program a client, which speaks JSON lines on its standard input and output: see `lines`."""
