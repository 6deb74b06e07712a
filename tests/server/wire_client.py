"""A server in this process, over an in-memory database, and clients that speak to it through real sockets."""

from __future__ import annotations

import socket
import time

from pydistdb.sql.api import Session
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.session.environment import Environment
from pydistdb_server.clients import ClientRegistry
from pydistdb_server.connection import ClientConnection
from pydistdb_server.loop import ServingLoop
from pydistdb_server.node import open_session

from tests.server import packets as p
from tests.support.golden import Command
from tests.support.memory_database import MemoryDatabase

QUIET_SECONDS = 0.01


class WireServer:
    """The server half of a node without storage and network."""

    def __init__(self, max_connections: int = 5) -> None:
        self.loop = ServingLoop()
        self.database = MemoryDatabase()
        self.catalog = CatalogStore(self.database, self.loop)
        self.loop.spawn(self.catalog.start(renew=False)).completion.result()
        self.environment = Environment(self.database, self.loop, self.catalog)
        self.clients = ClientRegistry(1, self._open_session, max_connections)
        self.environment.cancel_backend = self.clients.cancel_backend
        self.environment.terminate_backend = self.clients.terminate_backend

    async def _open_session(self, client: ClientConnection, parameters: dict[str, str]) -> Session:
        return open_session(self.environment, client, parameters)

    def connect(self) -> WireClient:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        connection = ClientConnection(self.loop, ours, self.clients, "test")
        return WireClient(self, theirs, connection)

    def pump(self) -> None:
        """Run the loop until it has been quiet for a while."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < QUIET_SECONDS:
            if self.loop.run_once():
                quiet_since = time.monotonic()

    def close(self) -> None:
        for client in list(self.clients.clients.values()):
            client.close()
        self.loop.run_once()
        self.loop.close()


class WireClient:
    """One client; ``send`` bytes, ``answers`` as lines."""

    def __init__(self, server: WireServer, sock: socket.socket, connection: ClientConnection) -> None:
        self.server = server
        self.connection = connection
        self._socket = sock
        self.closed = False

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self.server.loop.run_once()
            except OSError:
                return

    def receive(self) -> bytes:
        """Everything that the server sends until it is quiet."""
        data = b""
        while True:
            self.server.pump()
            try:
                part = self._socket.recv(1 << 20)
            except BlockingIOError:
                return data
            except OSError:
                part = b""
            if not part:
                self.closed = True
                return data
            data += part

    def lines(self, data: bytes) -> list[str]:
        """Send, and what came back."""
        self.send(data)
        received = self.receive()
        prefix = []
        while received[:1] == b"N" and (len(received) == 1 or received[1:5] in (b"", b"N")):
            prefix.append("N")
            received = received[1:]
        return prefix + list(p.answers(received)) + (["(connection closed)"] if self.closed else [])

    def start(self, **parameters: str) -> list[str]:
        return self.lines(p.startup(**{"user": "postgres", "database": "postgres", **parameters}))

    def close(self) -> None:
        self._socket.close()


class WireScript:
    """The commands of the golden transcripts."""

    def __init__(self) -> None:
        self.server = WireServer()
        self.clients: dict[str, WireClient] = {}
        self.pending = b""

    def execute(self, command: Command) -> str:
        name = command.name
        client_name = "a"
        if len(name) > 2 and name[1] == ".":
            client_name, name = name[0], name[2:]
        client = self.clients.get(client_name)
        if client is None or client.closed:
            client = self.clients[client_name] = self.server.connect()
        if name == "connect":
            lines = client.start(**command.options)
            return "\n".join(line for line in lines if not line.startswith("ParameterStatus")) or "(nothing)"
        if name == "startup":
            given = dict(word.split("=", 1) for word in command.text.split())
            return "\n".join(client.lines(p.startup(int(given.pop("minor", "0")), **given)))
        if name == "wait":
            time.sleep(float(command.arguments[0]) / 1000)
            return "\n".join(client.lines(b""))
        if name == "disconnect":
            client.close()
            self.server.pump()
            client.closed = True
            return ""
        self.pending += self._encode(name, command)
        if command.text.endswith("…"):
            return ""
        pending, self.pending = self.pending, b""
        lines = client.lines(pending)
        return "\n".join(lines) or "(nothing)"

    def _encode(self, name: str, command: Command) -> bytes:
        text = command.text.removesuffix("…").strip()
        words = text.split()
        match name:
            case "query":
                return p.query(text)
            case "parse":
                head, _, sql = text.partition(":")
                oids = [int(word) for word in head.split()[1:]]
                return p.parse(_name(head.split()[0]), sql.strip(), oids)
            case "bind":
                values = [_value(word) for word in words[2:] if "=" not in word]
                formats = [int(code) for code in command.options.get("formats", "").split(",") if code]
                results = [int(code) for code in command.options.get("results", "").split(",") if code]
                return p.bind(_name(words[0]), _name(words[1]), values, formats, results)
            case "describe":
                return p.describe(words[0].encode(), _name(words[1]))
            case "execute":
                return p.execute(_name(words[0]), int(words[1]) if len(words) > 1 else 0)
            case "close":
                return p.close(words[0].encode(), _name(words[1]))
            case "copydata":
                return p.copy_data(text.encode().decode("unicode_escape").encode())
            case "copyfail":
                return p.copy_fail(text)
            case "raw":
                return bytes.fromhex(text)
        return {"sync": p.SYNC, "flush": p.FLUSH, "terminate": p.TERMINATE, "copydone": p.COPY_DONE}[name]


def _name(word: str) -> str:
    """A statement's or portal's name; - stands for the unnamed one."""
    return "" if word == "-" else word


def _value(word: str) -> bytes | None:
    """A parameter: text, NULL, or 0x and the bytes of a binary one."""
    if word == "NULL":
        return None
    return bytes.fromhex(word[2:]) if word.startswith("0x") else word.encode()
