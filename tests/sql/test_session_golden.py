"""Sessions by golden script: ``sql TEXT`` runs a string as the simple protocol does; ``b.sql`` does so in session b.

``copy TEXT | DATA`` runs a COPY FROM STDIN with DATA, in which backslash escapes of Python are understood.
``b.close`` ends session b.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import golden
from tests.support.golden import Command
from tests.support.sql_client import SqlClient, SqlServer

SCRIPTS = sorted((Path(__file__).parent / "golden_session").glob("*.txt"))


class Script:
    def __init__(self) -> None:
        self.server = SqlServer()
        self.clients: dict[str, SqlClient] = {}

    def execute(self, command: Command) -> str:
        client_name, _, name = command.name.rpartition(".")
        client = self.clients.get(client_name)
        if client is None:
            client = self.clients[client_name] = self.server.connect()
        if name == "close":
            self.server.scheduler.run(self.clients.pop(client_name).session.close())
            return ""
        if name == "status":
            return client.session.transaction_status.decode()
        text, _, data = command.text.partition(" | ")
        if name == "copy":
            chunks = [data.encode().decode("unicode_escape").encode("latin-1")]
            return "\n".join(client.execute(text, chunks))
        return "\n".join(client.execute(command.text))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(Script().execute, path)
