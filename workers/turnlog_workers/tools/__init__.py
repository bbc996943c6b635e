"""Tools that models call: what a tool is, which turn may use which, and how one is run within bounds.

A runner sees only what it is given with its turn (``runners.base.TurnTools``).
"""
