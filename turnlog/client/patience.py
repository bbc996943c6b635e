"""How long commands wait for a broker."""

CONNECT_TIMEOUT_S = 5.0
