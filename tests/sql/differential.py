"""Asks a real PostgreSQL 15 for what the lines of the golden files give, and rewrites the files with its answers.

    PYDISTDB_TEST_POSTGRES="host=… user=…" python -m tests.sql.differential tests/sql/golden_types/*.txt
    PYDISTDB_TEST_POSTGRES="host=… user=…" pytest tests/sql/differential.py       compares, changes nothing

A golden file has lines ``call -> result`` (calls.py); new ones may leave out the arrow and what follows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sql.calls import ARRAYS, LINE, evaluate, find, sql_type

GOLDEN = Path(__file__).parent / "golden_types"
SERVER = os.environ.get("PYDISTDB_TEST_POSTGRES", "")
_SQL_NAMES = {"char": '"char"', "_char": '"char"[]'}


def split_line(line: str) -> tuple[str, str]:
    call, _, result = line.partition(" -> ")
    return call, result


def literal(text: str | None, type_name: str) -> str:
    name = _SQL_NAMES.get(type_name, type_name)
    if text is None:
        return f"NULL::{name}"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"E'{escaped}'::{name}"


def to_sql(line: str) -> str:
    match = LINE.fullmatch(line)
    assert match is not None, line
    name, types, arguments = match["name"], match["types"], json.loads(match["arguments"])
    type_names = [t for t in types.split(",") if t]
    if name == "input":
        return _input_sql(types, arguments[0])
    if name == "binary":
        return f"SELECT {literal(arguments[0], types)}"
    if name == "cast":
        return f"SELECT ({literal(arguments[0], type_names[0])})::{_SQL_NAMES.get(type_names[1], type_names[1])}"
    if not name[0].isalpha() and name[0] != "_":
        values = [literal(text, t) for text, t in zip(arguments, type_names, strict=True)]
        operator = f"OPERATOR(pg_catalog.{name})"
        return f"SELECT (({values[0]}) {operator} ({values[1]}))" if values[1:] else f"SELECT ({operator} {values[0]})"
    try:
        function = find(name, [sql_type(t) for t in type_names])
    except AssertionError:
        function = None
    if hasattr(function, "accumulate"):
        return _aggregate_sql(name, type_names, arguments, function)
    values = [literal(text, t) for text, t in zip(arguments, type_names, strict=True)]
    call = f'pg_catalog."{name}"({", ".join(values)})'
    first = function.argument_types[:1] if function is not None else ()
    if function is not None and function.returns_set and first and first[0].oid in ARRAYS:
        return f"SELECT x FROM {call} AS x"
    return f"SELECT ({call})"


def _input_sql(types: str, text: str | None) -> str:
    type_name, _, modifier = types.partition(",")
    if not modifier:
        return f"SELECT {literal(text, type_name)}"
    underscore = "" if type_name in ("varchar", "bpchar") else "_"
    return f"SELECT {type_name}{underscore}in({literal(text, 'cstring')}, 0, {modifier})"


def _aggregate_sql(name: str, type_names: list[str], rows: list[list[Any]], function: Any) -> str:
    columns = [f"c{i}" for i in range(len(type_names))] or ["c0"]
    if rows:
        shown = ", ".join(
            "(" + ", ".join(literal(t, n) for t, n in zip(row, type_names, strict=True)) + ")" for row in rows
        )
        source = f"(VALUES {shown}) AS v({', '.join(columns)})" if type_names else f"generate_series(1, {len(rows)})"
    else:
        nulls = ", ".join(f"{literal(None, n)} AS {c}" for n, c in zip(type_names, columns, strict=False)) or "1 AS c0"
        source = f"(SELECT {nulls} WHERE false) AS v"
    if function.ordered_set:
        direct = columns[: function.direct_count]
        arguments = ", ".join(f"min({c})" for c in direct)
        ordered = ", ".join(columns[function.direct_count :])
        if direct:
            first = literal(rows[0][0], type_names[0]) if rows else literal("0.5", type_names[0])
            arguments = first
        return f"SELECT ({name}({arguments}) WITHIN GROUP (ORDER BY {ordered})) FROM {source}"
    return f"SELECT {name}({', '.join(columns[: len(type_names)]) or '*'}) FROM {source}"


class Server:
    def __init__(self, connection: str) -> None:
        self.connection = psycopg.connect(connection, autocommit=True)
        self.connection.execute("SET timezone = 'America/New_York'")
        self.connection.execute("SET client_min_messages = error")

    def ask(self, line: str) -> str:
        sql = to_sql(line)
        try:
            with self.connection.cursor() as cursor:
                is_binary = line.startswith("binary(")
                cursor.execute(sql.encode(), binary=is_binary)
                result = cursor.pgresult
                assert result is not None
                rows = [result.get_value(number, 0) for number in range(result.ntuples)]
        except psycopg.Error as error:
            detail = f" DETAIL: {error.diag.message_detail}" if error.diag.message_detail else ""
            return f"! {error.sqlstate} {error.diag.message_primary}{detail}".replace("\n", "\\n")
        if is_binary:
            return " | ".join("NULL" if row is None else row.hex() for row in rows)
        return " | ".join("NULL" if row is None else row.decode() for row in rows).replace("\n", "\\n")


def _calls() -> list[tuple[str, str]]:
    return [
        (path.name, line)
        for path in sorted(GOLDEN.glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]


@pytest.mark.skipif(not SERVER, reason="PYDISTDB_TEST_POSTGRES names no server to compare with")
def test_golden_files_are_what_postgres_says() -> None:
    server = Server(SERVER)
    wrong = []
    for name, line in _calls():
        call, expected = split_line(line)
        actual = server.ask(call)
        if actual != expected:
            wrong.append(f"{name}: {call}\n  golden   {expected}\n  postgres {actual}")
    assert not wrong, "\n".join(wrong)


def main(paths: list[str]) -> None:
    server = Server(SERVER)
    different = 0
    for path in map(Path, paths):
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                lines.append(line)
                continue
            call, _ = split_line(line)
            answer = server.ask(call)
            lines.append(f"{call} -> {answer}")
            try:
                ours = evaluate(call)
            except Exception as error:
                ours = f"?? {type(error).__name__}: {error}"
            if ours != answer:
                different += 1
                print(f"{path.name}: {call}\n  ours     {ours}\n  postgres {answer}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{different} different")


if __name__ == "__main__":
    main(sys.argv[1:])
