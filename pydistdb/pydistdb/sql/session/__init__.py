"""One client's session: statements, transactions, settings, cursors. `session.py` is the door."""
