"""``smollm2:``, a small real model without network or key: its packages, its one process a machine, its runner.

What may enter: nothing that a worker's event loop would wait for. The model is loaded in a process of its own.
"""
