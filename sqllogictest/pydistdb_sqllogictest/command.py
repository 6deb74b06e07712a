"""The command itself: find the files and their dialects, run them, report."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from psycopg.conninfo import make_conninfo

from pydistdb_sqllogictest.arguments import INDEX_NAME
from pydistdb_sqllogictest.records import Dialect
from pydistdb_sqllogictest.report import problem_lines, summary_line, total_line, write_junit
from pydistdb_sqllogictest.run import FileResult, Options, run_file

MAX_JOBS = 64
_NOT_SCRIPTS = frozenset({".md", ".tsv", ".txt", ".json", ".csv", ".py", ".xml"})
# A folder of such a name holds pg files, whatever the folders in it are called; else a dialect's name says it.
_PG_FOLDERS = frozenset({"derived"})
_DIALECTS = {dialect.value: dialect for dialect in Dialect}


def run_command(arguments: argparse.Namespace, url: str) -> int:
    """Run the files; 0 if all records passed, 1 if not, 2 if there is nothing to run."""
    files = find_files(arguments.paths, arguments.skip)
    if not files:
        print("slt: no sqllogictest files there", file=sys.stderr)
        return 2
    if arguments.splits:
        url = make_conninfo(url, options="-c pydistdb.split_new_tables=on")
    options = Options(url, arguments.timeout, arguments.database_per_file, arguments.fail_fast)
    indexes: dict[Path, dict[str, Dialect]] = {}
    dialects = {
        path: Dialect(arguments.dialect) if arguments.dialect != "auto" else dialect_of(path, indexes) for path in files
    }
    results: list[FileResult] = []
    printing = threading.Lock()
    stopped = threading.Event()

    def run(path: Path) -> None:
        if stopped.is_set():
            return
        result = run_file(path, dialects[path], options)
        with printing:
            results.append(result)
            print(summary_line(result), flush=True)
            for problem in result.problems[: arguments.show]:
                print("\n".join(problem_lines(result, problem)), flush=True)
        if result.failed and options.fail_fast:
            stopped.set()

    with ThreadPoolExecutor(max_workers=max(1, min(arguments.jobs, MAX_JOBS))) as pool:
        for done in [pool.submit(run, path) for path in files]:
            done.result()
    results.sort(key=lambda result: result.path)
    print(total_line(results))
    if arguments.junit is not None:
        write_junit(arguments.junit, results)
    return 1 if any(result.failed for result in results) else 0


def find_files(paths: Sequence[Path], skip: Sequence[str]) -> list[Path]:
    """The files named and those in the folders named, in order; without what a ``skip`` pattern matches."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for one in inside:
            if path.is_dir() and (one.suffix in _NOT_SCRIPTS or one.name.startswith(".")):
                continue
            if not any(fnmatch(str(one), pattern) or pattern in str(one) for pattern in skip):
                found[one] = None
    return list(found)


def dialect_of(path: Path, indexes: dict[Path, dict[str, Dialect]]) -> Dialect:
    """The dialect of a file by the nearest index above it, or by the name of a folder it lies in."""
    whole = path.resolve()
    for folder in whole.parents:
        if folder not in indexes:
            indexes[folder] = _read_index(folder / INDEX_NAME)
        if (found := indexes[folder].get(str(whole.relative_to(folder)))) is not None:
            return found
    folders = whole.parts[:-1]
    if not _PG_FOLDERS.isdisjoint(folders):
        return Dialect.PG
    for name in reversed(folders):
        if name in _DIALECTS:
            return _DIALECTS[name]
    return Dialect.SQLITE if path.suffix == ".test" else Dialect.PG


def _read_index(path: Path) -> dict[str, Dialect]:
    """Columns ``path`` and ``dialect`` of a tab-separated file; empty if there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    header = lines[0].split("\t") if lines else []
    if "path" not in header or "dialect" not in header:
        return {}
    name, dialect = header.index("path"), header.index("dialect")
    rows = (line.split("\t") for line in lines[1:] if line)
    return {row[name]: Dialect(row[dialect]) for row in rows if len(row) > max(name, dialect)}
