"""What talks to models: the runner protocol, its checks, and the runners that come with Turnlog."""
