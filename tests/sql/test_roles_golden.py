"""Roles by golden script: ``sql TEXT`` runs a statement as postgres, ``alice.sql TEXT`` in a session of the role alice."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydistdb.sql.errors import DatabaseError

from tests.support import golden
from tests.support.golden import Command
from tests.support.sql_client import SqlClient, SqlServer, error_text

SCRIPTS = sorted((Path(__file__).parent / "golden_roles").glob("*.txt"))


class Script:
    def __init__(self) -> None:
        self.server = SqlServer()
        self.clients: dict[str, SqlClient] = {}

    def execute(self, command: Command) -> str:
        user, _, _ = command.name.rpartition(".")
        client = self.clients.get(user)
        if client is None:
            try:
                client = self.clients[user] = self.server.connect(user or "postgres")
            except DatabaseError as error:
                return error_text(error)
        return "\n".join(client.execute(command.text))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(Script().execute, path)
