"""One owned partition from claim to release: requests and outcomes in, decisions to the log, effects once confirmed."""
