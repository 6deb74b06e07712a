"""COPY's formats: options and writing (`formats.py`), reading (`reader.py`, `binary.py`, `convert.py`)."""
