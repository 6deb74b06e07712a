"""A node process: Postgres protocol, node-to-node RPC, HTTP, configuration."""
