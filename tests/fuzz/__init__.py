"""Differential fuzzing: random statements go to a node and to PostgreSQL 15, and must come to the same.

``make fuzz`` runs it (``python -m tests.fuzz --help``).  ``grammar`` makes statements, ``compare`` runs them on both sides and
judges, ``shrink`` makes a statement that differs as small as it can be.  A seed and a number name a statement::

    python -m tests.fuzz --seed 7 --first 120 --count 1
"""
