"""Run the test suites of drivers and frameworks against a node, and write docs/compatibility.md.

By hand, since the suites are no dependencies of ours: unpack the source distributions into one folder, install what they
need into an environment of its own, start a node, and::

    pip download --no-deps --no-binary :all: sqlalchemy django psycopg2 asyncpg pg8000
    python -m pydistdb_tools.compatibility --sources DIR --python VENV/bin/python --port 5433 --reference 5432

Suites run one after the other, on the node and then on PostgreSQL 15 (``--reference``): a test that fails on both is one
of the suite's surroundings (a server that it wants to start itself, a setting, rows that an earlier test left behind), and
says nothing about us.  The others are listed by name, each with the error that it ends with; many of one class with the same
error are one line.  What is left out or changed in a suite, ``Suite.note`` says.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

TIMEOUT_SECONDS = 1800
MOST_CAUSES = 30
MOST_NAMES = 4
DATABASE = "compatibility"

_PYTEST_TOTAL = re.compile(r"(\d+) (passed|failed|skipped|errors?|subtests passed)\b")
_PYTEST_FAILURE = re.compile(r"^(?:FAILED|ERROR) \S*?(::.+?|[^:\s]+)(?: - (.*))?$", re.MULTILINE)
_UNITTEST_TOTAL = re.compile(r"Ran (\d+) tests")
_UNITTEST_RESULT = re.compile(r"(?<!expected )(failures|errors|skipped)=(\d+)")
_UNITTEST_FAILURE = re.compile(r"^={70}\n(?:FAIL|ERROR): (.+)\n(?:.*\n)?-{70}\n((?:(?!={70}).*\n)*)", re.MULTILINE)
_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?(\w*(?:Error|NotSupported|Undefined\w+|Exception|Failure)): ?(.*)$", re.MULTILINE
)
_PG8000 = re.compile(r"'C': '(\w+)', 'M': ['\"](.*?)['\"][,}]")
_PORT = re.compile(r"port \d+")
_SERVER_VERSION = re.compile(r"_15_\d+(?:_\d+)*")

PYTEST = ("-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-p", "no:warnings", "--timeout=30")
SQLALCHEMY = ("--maxfail=1000", "test/dialect/test_suite.py", "--dburi")
DJANGO = "basic queries aggregation expressions lookup transactions bulk_create select_for_update schema migrations"
DJANGO_MORE = "introspection inspectdb constraints indexes backends"


@dataclass(frozen=True, slots=True)
class Suite:
    """``options`` follow the interpreter; {url} and {port} are filled in.  ``folder`` is a pattern under the sources."""

    name: str
    folder: str
    options: tuple[str, ...]
    environment: Mapping[str, str]
    schemas: tuple[str, ...] = ()
    note: str = ""
    """Why tests fail, where the errors do not tell."""


SUITES = (
    Suite(
        "SQLAlchemy (psycopg)",
        "sqlalchemy-*",
        (*PYTEST, *SQLALCHEMY, "postgresql+psycopg://{url}"),
        {},
        ("test_schema", "test_schema_2"),
        note="test/dialect/test_suite.py alone. Changed: the extensions citext and hstore are not made first.",
    ),
    Suite(
        "SQLAlchemy (asyncpg)",
        "sqlalchemy-*",
        (*PYTEST, *SQLALCHEMY, "postgresql+asyncpg://{url}"),
        {},
        ("test_schema", "test_schema_2"),
        note="As with psycopg.",
    ),
    Suite(
        "Django",
        "django-*/tests",
        (
            "runtests.py",
            "--settings=compatibility_settings",
            "--parallel=1",
            "--noinput",
            *DJANGO.split(),
            *DJANGO_MORE.split(),
        ),
        {"DJANGO_PORT": "{port}"},
        note="These applications of its tests: "
        + DJANGO
        + " "
        + DJANGO_MORE
        + ". Changed: the collations that tests use are C, "
        "and non-deterministic ones are declared missing.",
    ),
    Suite(
        "psycopg2",
        "psycopg2-*",
        (*PYTEST, "tests", "-k", "not test_suite"),
        {
            "PSYCOPG2_TESTDB": DATABASE,
            "PSYCOPG2_TESTDB_HOST": "127.0.0.1",
            "PSYCOPG2_TESTDB_PORT": "{port}",
            "PSYCOPG2_TESTDB_USER": "postgres",
        },
        note="There are no large objects, and client_encoding is always UTF8. Server cursors take rows in batches, so volatile "
        "functions are called ahead of FETCH. A SERIALIZABLE transaction fails when anything it has read was changed before it "
        "commits; PostgreSQL lets some of these through.",
    ),
    Suite(
        "asyncpg",
        "asyncpg-*",
        (
            "-P",
            *PYTEST,
            "--import-mode=append",
            "tests",
            "--ignore=tests/test__sourcecode.py",
            "--ignore=tests/test_subinterpreters.py",
        ),
        {"PGHOST": "127.0.0.1", "PGPORT": "{port}", "PGUSER": "postgres", "PGDATABASE": DATABASE},
        note="One test expects rows without ORDER BY as they were inserted (here: in the order of the primary key) and leaves "
        "the table exmany behind; the tests after it fail for that. A parameter cast to a domain is described as of its base "
        "type (test_introspection_retries_after_cache_bust).",
    ),
    Suite(
        "pg8000",
        "pg8000-*",
        (*PYTEST, "test", "-k", "not auth and not benchmark and not readme and not mocker"),
        {"PGHOST": "127.0.0.1", "PGPORT": "{port}"},
        note="Left out: authentication, benchmarks and the examples of its README. Errors do not name a file of PostgreSQL's "
        "source (test_copy_from_with_error).",
    ),
)

DJANGO_SETTINGS = """
import os

from django.db.backends.postgresql.features import DatabaseFeatures

DATABASES = {
    name: {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["DJANGO_PORT"],
        "TEST": {"NAME": "django_" + name},
    }
    for name in ("default", "other")
}
SECRET_KEY = "x"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
# Text has no other order than C's.
DatabaseFeatures.test_collations = dict.fromkeys(("deterministic", "non_default", "swedish_ci", "virtual"), "C")
DatabaseFeatures.supports_non_deterministic_collations = False
"""

HEAD = """# Compatibility

Test suites of drivers and frameworks, run against one node, and in the same surroundings against PostgreSQL 15. Written by
`python -m pydistdb_tools.compatibility` (its text says how to run it); do not edit by hand. Tests that fail on both want a
server of their own, or another setting, extension or locale than both have. pgjdbc, node-postgres, psycopg 3 and Alembic are
tested by programs of our own (tests/drivers).

Tried on both with their everyday surface (models, relations, migrations, introspection, streams, transactions), with the
same outcome but for what is said of Sequelize: SQLModel, Peewee, Pony, Tortoise (asyncpg and psycopg), Piccolo, pandas,
aiopg, yoyo, sqlacodegen and pgcli; of npm's packages pg with pg-cursor, pg-query-stream and pg-copy-streams, postgres, Knex
with Objection, Sequelize, TypeORM, Kysely, Drizzle and pg-promise. Sequelize makes its ENUM columns in a DO block and has a
PL/pgSQL function for findOrCreate, which are refused (0A000).

| suite | passed | failed here only | failed on both | skipped |
|---|---:|---:|---:|---:|
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``failures`` are the errors that failed tests ended with, by the tests' names."""

    passed: int
    failed: int
    skipped: int
    failures: Mapping[str, str]


def totals(output: str) -> tuple[int, int, int]:
    """Passed, failed and skipped tests, by the last lines of pytest or unittest."""
    ran = _UNITTEST_TOTAL.search(output)
    if ran is not None:
        counts = {word: int(number) for word, number in _UNITTEST_RESULT.findall(output[ran.end() :])}
        failed, skipped = counts.get("failures", 0) + counts.get("errors", 0), counts.get("skipped", 0)
        return int(ran[1]) - failed - skipped, failed, skipped
    last = next((line for line in reversed(output.splitlines()) if _PYTEST_TOTAL.search(line)), "")
    counts = {word.rstrip("s"): int(number) for number, word in _PYTEST_TOTAL.findall(last)}
    return counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0), counts.get("skipped", 0)


def failures(output: str) -> dict[str, str]:
    """The failed tests with the last line of their errors, by pytest's short summary or unittest's reports."""
    found = {}
    for match in _PYTEST_FAILURE.finditer(output):
        found[_SERVER_VERSION.sub("", match[1].removeprefix("::"))] = _cause(match[2] or "")
    for match in _UNITTEST_FAILURE.finditer(output):
        errors = list(_EXCEPTION.finditer(match[2]))
        found[match[1]] = _cause(errors[-1][0]) if errors else ""
    return found


def _cause(line: str) -> str:
    """What the error says: the server's message, where there is one."""
    plain = _PG8000.search(line)
    if plain is not None:
        return plain[2]
    exception = _EXCEPTION.match(line)
    return _PORT.sub("port N", (exception[2] or exception[1]) if exception is not None else line)


def run(suite: Suite, sources: Path, python: str, port: int, log: Path | None, reuse: bool) -> Outcome | None:
    """Run one suite; None if its source is not there.  Its output is kept in ``log``, or read from there (``reuse``)."""
    if reuse and log is not None and log.exists():
        output = log.read_text(encoding="utf-8")
        return Outcome(*totals(output), failures(output))
    folder = next(iter(sorted(sources.glob(suite.folder))), None)
    if folder is None:
        return None
    _fresh_database(port, suite.schemas)
    _prepare(suite, folder)
    known = {"url": f"postgres@127.0.0.1:{port}/{DATABASE}", "port": str(port)}
    command = [python, *(option.format_map(known) for option in suite.options)]
    environment = os.environ | {name: value.format_map(known) for name, value in suite.environment.items()}
    environment |= {"COLUMNS": "400"}  # or pytest cuts its lines off
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    output = done.stdout + done.stderr
    if log is not None:
        log.write_text(output, encoding="utf-8")
    return Outcome(*totals(output), failures(output))


def _prepare(suite: Suite, folder: Path) -> None:
    """What a suite needs in its folder, which is a copy of our own."""
    if suite.name == "Django":
        (folder / "compatibility_settings.py").write_text(DJANGO_SETTINGS, encoding="utf-8")
    elif suite.name.startswith("SQLAlchemy"):
        # It makes two extensions before the first test; its compliance suite does not use them.
        provision = folder / "lib/sqlalchemy/dialects/postgresql/provision.py"
        text = provision.read_text(encoding="utf-8")
        provision.write_text(re.sub(r"^_extensions = \[.*?^\]", "_extensions = []", text, flags=re.M | re.S), "utf-8")


def _fresh_database(port: int, schemas: Sequence[str]) -> None:
    address = f"host=127.0.0.1 port={port} user=postgres"
    with psycopg.connect(f"{address} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {DATABASE}")
    with psycopg.connect(f"{address} dbname={DATABASE}", autocommit=True) as connection:
        for schema in schemas:
            connection.execute(f"CREATE SCHEMA {schema}")


def page(outcomes: Mapping[str, tuple[Outcome, Outcome | None]]) -> str:
    """The text of docs/compatibility.md, of each suite's outcome here and on PostgreSQL."""
    rows, parts = [], []
    notes = {suite.name: suite.note for suite in SUITES}
    for name, (here, there) in outcomes.items():
        known = there.failures if there is not None else {}
        ours = {test: cause for test, cause in here.failures.items() if test not in known}
        both = len(here.failures) - len(ours)
        rows.append(f"| {name} | {here.passed} | {here.failed - both} | {both} | {here.skipped} |")
        parts.append(f"\n## {name}\n")
        if notes.get(name):
            parts.append("\n" + textwrap.fill(notes[name], 120) + "\n")
        if ours:
            parts.append("\nFailed here only:\n\n" + "\n".join(_listed(ours)) + "\n")
    return HEAD + "\n".join(rows) + "\n" + "".join(parts)


def _listed(failed: Mapping[str, str]) -> list[str]:
    """One line for each error, the most frequent first, with the names of tests that ended with it."""
    tests: dict[str, list[str]] = {}
    for name, cause in failed.items():
        tests.setdefault(cause, []).append(re.split(r"::| \(", name)[-1 if "::" in name else 0])
    lines = []
    for cause, names in sorted(tests.items(), key=lambda item: -len(item[1]))[:MOST_CAUSES]:
        more = ", …" if len(names) > MOST_NAMES else ""
        lines.append(f"* {len(names)} × {cause or '(no message)'} ({', '.join(names[:MOST_NAMES])}{more})")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pydistdb_tools.compatibility", description=__doc__)
    parser.add_argument("--sources", type=Path, required=True, help="folder of the unpacked source distributions")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has what the suites need")
    parser.add_argument("--port", type=int, default=5433)
    parser.add_argument("--reference", type=int, help="the port of a PostgreSQL 15 to run the suites on too")
    parser.add_argument("--logs", type=Path, help="a folder to keep the suites' output in")
    parser.add_argument("--reuse", action="store_true", help="what has a log already does not run again")
    parser.add_argument("--output", type=Path, default=Path("docs/compatibility.md"))
    parser.add_argument("suites", nargs="*", help="names of suites (default: all)")
    options = parser.parse_args(arguments)
    outcomes: dict[str, tuple[Outcome, Outcome | None]] = {}
    for suite in SUITES:
        if options.suites and suite.name not in options.suites:
            continue
        found = []
        for port in (options.port, options.reference):
            log = options.logs / f"{suite.name}.{port}.log" if options.logs else None
            sources = options.sources.resolve()
            found.append(run(suite, sources, options.python, port, log, options.reuse) if port else None)
        here, there = found
        if here is not None:
            outcomes[suite.name] = here, there
            print(suite.name, here.passed, here.failed, here.skipped, "reference:", there and there.failed, flush=True)
            options.output.write_text(page(outcomes), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
