"""The proddb command: cluster control, SQL shell, benchmark."""
