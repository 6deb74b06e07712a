"""The command line.  Kept apart from the command, so that a parser can be built without loading the database driver."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydistdb_sqllogictest.records import Dialect

INDEX_NAME = "INDEX.tsv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments, all but the one that names the server."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files, or folders of files")
    parser.add_argument(
        "--dialect",
        choices=["auto", *(dialect.value for dialect in Dialect)],
        default="auto",
        help=f"record syntax (default: by a folder's {INDEX_NAME}, else by the folders' names, else pg)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="files at a time (default 1)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report")
    parser.add_argument("--fail-fast", action="store_true", help="end at the first failure")
    parser.add_argument(
        "--database-per-file",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run every file in a new database that is dropped afterwards (default)",
    )
    parser.add_argument(
        "--splits", action="store_true", help="cut every new table into several ranges (pydistdb.split_new_tables)"
    )
    parser.add_argument("--skip", action="append", default=[], metavar="PATTERN", help="leave out matching files")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="failures to show per file (default 3)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="per statement (default 30)")
