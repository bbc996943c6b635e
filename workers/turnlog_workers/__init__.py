"""The processes: workers, the materializer, and the stack for development. The rooms are in ARCHITECTURE.md."""
