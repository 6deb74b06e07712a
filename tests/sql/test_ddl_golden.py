"""Golden scripts of DDL: a script's lines are SQL statements, run by a session on an in-memory database.

``other: …`` runs in a second session; ``boundaries`` and ``storage`` show what the key space below looks like.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import golden
from tests.support.sql_client import SqlServer

SCRIPTS = sorted((Path(__file__).parent / "golden_ddl").glob("*.txt"))


class DdlScript:
    def __init__(self) -> None:
        self.server = SqlServer()
        self.sessions = {"": self.server.connect(), "other:": self.server.connect()}

    def execute(self, command: golden.Command) -> str:
        if command.name == "boundaries":
            return "\n".join(key.hex() for key in self.server.database.boundaries)
        if command.name == "storage":
            return self.storage()
        name, text = command.name, f"{command.name} {command.text}"
        if name in self.sessions:
            text = command.text
        return "\n".join(self.sessions[name if name in self.sessions else ""].execute(text))

    def storage(self) -> str:
        """Which tables have entries, and how many, by the first byte of the key and the storage id."""
        self.server.scheduler.advance(10_000_000)
        now = self.server.database.now()
        names = {t.storage_id: t.name for t in self.server.catalog.view("postgres", ("public",)).tables()}
        counts: dict[str, int] = {}
        for key in self.server.database.versions:
            if key[0] in (4, 5, 6) and self.server.database.read(key, now)[0] is not None:
                storage_id = int.from_bytes(key[1:5] if key[0] == 4 else key[7:11], "big")
                label = f"{key[0]} {names.get(storage_id, 'nobody')}"
                counts[label] = counts.get(label, 0) + 1
        return "\n".join(f"{label}: {count}" for label, count in sorted(counts.items())) or "empty"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(DdlScript().execute, path)
