"""Run the test suites of drivers and frameworks against a node, and write docs/compatibility.md.

By hand, since the suites are no dependencies of ours: unpack the source distributions into one folder, install what they
need into an environment of its own, start a node, and::

    pip download --no-deps --no-binary :all: sqlalchemy django psycopg2 asyncpg pg8000
    python -m pydistdb_tools.compatibility --sources DIR --python VENV/bin/python --port 5433 --output docs/compatibility.md

Suites run one after the other.  What fails is grouped by the error that it ends with, the most frequent first: a group
names a cause, or a feature that is not there.  Every failure counts, also of tests that want another server of their own
or rows that an earlier test's failure left behind; what is left out or changed in a suite, ``Suite.note`` says.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

TIMEOUT_SECONDS = 1800
MOST_CAUSES = 8
DATABASE = "compatibility"

_PYTEST_TOTAL = re.compile(r"(\d+) (passed|failed|skipped|errors?|subtests passed)\b")
_UNITTEST_TOTAL = re.compile(r"Ran (\d+) tests")
_UNITTEST_RESULT = re.compile(r"(?<!expected )(failures|errors|skipped)=(\d+)")
_CAUSE = re.compile(
    r"^(?:E +)?(?:[\w.]+\.)?(\w*(?:Error|NotSupported|Undefined\w+|Exception|Failure)): ?(.*)$", re.MULTILINE
)
_PG8000 = re.compile(r"'C': '(\w+)', 'M': ['\"](.*?)['\"][,}]")

PYTEST = ("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:warnings", "--timeout=30")
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
        (*PYTEST, "tests", "-k", "not test_suite and not test_deadlock and not segfault"),
        {
            "PSYCOPG2_TESTDB": DATABASE,
            "PSYCOPG2_TESTDB_HOST": "127.0.0.1",
            "PSYCOPG2_TESTDB_PORT": "{port}",
            "PSYCOPG2_TESTDB_USER": "postgres",
        },
        note="Left out: tests that need two transactions with uncommitted DDL, or two strong LOCK TABLEs, at the same time. "
        "There are no large objects, and client_encoding is always UTF8.",
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
        "the table exmany behind; the tests after it fail for that.",
    ),
    Suite(
        "pg8000",
        "pg8000-*",
        (*PYTEST, "test", "-k", "not auth and not benchmark and not readme and not mocker"),
        {"PGHOST": "127.0.0.1", "PGPORT": "{port}"},
        note="Left out: authentication, benchmarks and the examples of its README.",
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

Test suites of drivers and frameworks, run against one node. Written by `python -m pydistdb_tools.compatibility` (its text
says how to run it); do not edit by hand. Failures are not compared with a run against Postgres: some are of the suite's
surroundings. At most eight kinds of errors are listed for each suite. pgjdbc, node-postgres,
psycopg 3 and Alembic are tested by programs of our own (tests/drivers).

| suite | passed | failed | skipped |
|---|---:|---:|---:|
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: int
    failed: int
    skipped: int
    causes: tuple[tuple[str, int], ...]


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


def causes(output: str) -> list[tuple[str, int]]:
    """The errors of the server that tests ended with; frameworks wrap them, so each is counted by the driver's line only."""
    found: Counter[str] = Counter()
    for match in _CAUSE.finditer(output):
        name, text = match[1], match[2].strip()
        plain = _PG8000.search(text)
        if not match[0].removeprefix("E").strip().startswith(("django.", "sqlalchemy.")):
            found[plain[2] if plain else text or name] += 1
    return found.most_common(MOST_CAUSES)


def run(suite: Suite, sources: Path, python: str, port: int) -> Outcome | None:
    """Run one suite; None if its source is not there."""
    folder = next(iter(sorted(sources.glob(suite.folder))), None)
    if folder is None:
        return None
    _fresh_database(port, suite.schemas)
    _prepare(suite, folder)
    known = {"url": f"postgres@127.0.0.1:{port}/{DATABASE}", "port": str(port)}
    command = [python, *(option.format_map(known) for option in suite.options)]
    environment = os.environ | {name: value.format_map(known) for name, value in suite.environment.items()}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    output = done.stdout + done.stderr
    return Outcome(*totals(output), tuple(causes(output)))


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


def page(outcomes: Mapping[str, Outcome]) -> str:
    """The text of docs/compatibility.md."""
    rows = [f"| {name} | {each.passed} | {each.failed} | {each.skipped} |" for name, each in outcomes.items()]
    parts = [HEAD + "\n".join(rows) + "\n"]
    notes = {suite.name: suite.note for suite in SUITES}
    for name, each in outcomes.items():
        parts.append(f"\n## {name}\n")
        if notes.get(name):
            parts.append("\n" + textwrap.fill(notes[name], 120) + "\n")
        if each.causes:
            lines = [f"* {count} × {cause}".rstrip() for cause, count in each.causes]
            parts.append("\nWhat failed tests ended with:\n\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pydistdb_tools.compatibility", description=__doc__)
    parser.add_argument("--sources", type=Path, required=True, help="folder of the unpacked source distributions")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has what the suites need")
    parser.add_argument("--port", type=int, default=5433)
    parser.add_argument("--output", type=Path, default=Path("docs/compatibility.md"))
    parser.add_argument("suites", nargs="*", help="names of suites (default: all)")
    options = parser.parse_args(arguments)
    outcomes: dict[str, Outcome] = {}
    for suite in SUITES:
        if options.suites and suite.name not in options.suites:
            continue
        outcome = run(suite, options.sources.resolve(), options.python, options.port)
        if outcome is not None:
            outcomes[suite.name] = outcome
            print(suite.name, outcome.passed, outcome.failed, outcome.skipped, flush=True)
            options.output.write_text(page(outcomes), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
