"""AG-UI 1.0: a run is a turn, a thread is a session. ``POST /agui`` runs one, ``POST /agui/rejoin`` goes on with one.

``run_input.py`` reads a request, ``run_events.py`` maps reply frames to events, ``snapshots.py`` a history to messages:
all pure. ``endpoints.py`` has the paths.
"""
