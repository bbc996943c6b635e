"""HTTP in front of the topics: `turnlog serve`. It keeps no state of its own; any number of gateways run side by side.

What is told of a turn is a pure function of its frames, in modules without I/O; the rest carries requests in and events
out. Route modules export ``ENDPOINTS`` and are listed in ``app.py``.
"""
