"""What a statement's analysis answers, from this binder and from a real Postgres, in the same few lines of text.

The expected answers in ``golden_bind/answers_*.txt`` were recorded from PostgreSQL 15:

    python -m tests.sql.bind_answers record      writes the answers of the server at PGHOST/PGPORT into the scripts
    python -m tests.sql.bind_answers compare     shows where the binder answers something else
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydistdb.sql.bind import analyze, parse
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext

from tests.support.fake_catalog import FakeCatalog

FOLDER = Path(__file__).parent / "golden_bind"
SCHEMA = (FOLDER / "schema.sql").read_text()


def _columns(columns: list[tuple[str, int, int]]) -> str:
    return ", ".join(f"{name} {registry.format_type(oid, modifier)}" for name, oid, modifier in columns)


def _answer(parameters: list[int], columns: list[tuple[str, int, int]]) -> str:
    lines = []
    if parameters:
        lines.append("parameters: " + ", ".join(registry.format_type(oid) for oid in parameters))
    lines.append("columns: " + _columns(columns) if columns else "done")
    return "\n".join(lines)


def _error(sqlstate: str, message: str, position: object, hint: object, detail: object) -> str:
    lines = [f"error {sqlstate} at {position}: {message}"]
    if detail:
        lines.append(f"  detail: {detail}")
    if hint:
        lines.append(f"  hint: {hint}")
    return "\n".join(lines)


class OurAnswers:
    def __init__(self) -> None:
        self.catalog = FakeCatalog(SCHEMA)
        self.context = EvalContext()
        self.context.catalog = self.catalog

    def __call__(self, text: str) -> str:
        try:
            bound = analyze(parse(text)[0], self.catalog, self.context)
            assert isinstance(bound, BoundStatement)
        except DatabaseError as error:
            return _error(error.sqlstate, error.message, error.position, error.hint, error.detail)
        columns = [(c.name, c.type.oid, c.type.modifier) for c in bound.query.columns] if bound.has_rows else []
        return _answer([t.oid for t in bound.parameter_types], columns)


class PostgresAnswers:
    def __init__(self) -> None:
        import psycopg

        with psycopg.connect("host=127.0.0.1 port=54321 user=postgres dbname=postgres", autocommit=True) as admin:
            admin.execute("drop database if exists bind_answers")
            admin.execute("create database bind_answers")
        self.connection = psycopg.connect(
            "host=127.0.0.1 port=54321 user=postgres dbname=bind_answers", autocommit=True
        )
        self.connection.execute(SCHEMA)

    def __call__(self, text: str) -> str:
        from psycopg.pq import DiagnosticField, ExecStatus

        result = self.connection.pgconn.prepare(b"", text.encode())
        if result.status == ExecStatus.FATAL_ERROR:

            def field(which: DiagnosticField) -> str | None:
                value = result.error_field(which)
                return value.decode() if value is not None else None

            return _error(
                field(DiagnosticField.SQLSTATE) or "",
                field(DiagnosticField.MESSAGE_PRIMARY) or "",
                field(DiagnosticField.STATEMENT_POSITION),
                field(DiagnosticField.MESSAGE_HINT),
                field(DiagnosticField.MESSAGE_DETAIL),
            )
        described = self.connection.pgconn.describe_prepared(b"")
        parameters = [described.param_type(index) for index in range(described.nparams)]
        columns = [
            ((described.fname(index) or b"").decode(), described.ftype(index), described.fmod(index))
            for index in range(described.nfields)
        ]
        return _answer(parameters, columns)


def scripts() -> list[Path]:
    return sorted(FOLDER.glob("answers_*.txt"))


def blocks(path: Path) -> list[tuple[str, str]]:
    """(statement, answer) pairs: paragraphs, the answer behind a ``---`` line."""
    pairs = []
    for paragraph in path.read_text().split("\n\n"):
        if paragraph.strip():
            statement, _, answer = paragraph.strip("\n").partition("\n---\n")
            pairs.append((statement, answer))
    return pairs


def main(action: str) -> None:
    if action == "record":
        server = PostgresAnswers()
        for path in scripts():
            pairs = [
                (statement, answer if statement.startswith("#") else server(statement))
                for statement, answer in blocks(path)
            ]
            path.write_text("\n\n".join(f"{s}\n---\n{a}" if a else s for s, a in pairs) + "\n")
        return
    ours = OurAnswers()
    count = wrong = 0
    for path in scripts():
        for statement, expected in blocks(path):
            if statement.startswith("#"):
                continue
            count += 1
            try:
                actual = ours(statement)
            except Exception as error:
                actual = f"{type(error).__name__}: {error}"
            if actual != expected:
                wrong += 1
                print(f"{path.name}: {statement}\n  expected {expected}\n  but got  {actual}\n")
    print(f"{count} statements, {wrong} differ")


if __name__ == "__main__":
    main(sys.argv[1])
