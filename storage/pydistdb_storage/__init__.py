"""One machine's store: key encoding, the LMDB engine, multi-version values."""
