"""The session aggregate: commands in, events out (``decide``), events to state (``state.evolve``)."""
