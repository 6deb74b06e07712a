"""Where ``proddb`` begins: loads what a command needs, and ends quietly where Ctrl-C comes before that is done.

Nothing but ``sys`` may be imported above: what takes time to load would take it outside the ``try``."""

import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        from pydistdb_tools.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
