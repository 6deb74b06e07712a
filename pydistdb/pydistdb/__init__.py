"""The database: SQL over transactional key-value ranges over Raft groups (see docs/architecture.md)."""
