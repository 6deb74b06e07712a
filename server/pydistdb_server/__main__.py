"""``python -m pydistdb_server``: run one node."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydistdb_server.config import ConfigError, parse_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node as the arguments say; returns the exit status."""
    try:
        config = parse_arguments(arguments)
    except ConfigError as error:
        print(f"proddb: {error}", file=sys.stderr)
        return 1
    from pydistdb_server.node import run  # the database itself: whoever has mistyped an option need not wait for it

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
