"""Does Turnlog understand other people's Kafka clients? See docs/clients.md."""
