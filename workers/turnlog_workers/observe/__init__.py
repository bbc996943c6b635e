"""How a process is seen from outside: ``/livez``, ``/readyz`` and ``/metrics`` on one port.

It knows no shard and no file: whoever starts a process hands over what there is to read.
"""
