"""DROP DATABASE and the sessions that are connected to it."""

from __future__ import annotations

from tests.support.sql_client import SqlServer


def test_a_database_in_use_is_not_dropped() -> None:
    server = SqlServer()
    admin = server.connect()
    assert admin.execute("CREATE DATABASE shop") == ["CREATE DATABASE"]
    first, second = server.connect(database="shop"), server.connect(database="shop")
    assert admin.execute("DROP DATABASE shop") == [
        'ERROR: 55006: database "shop" is being accessed by other users; '
        "DETAIL: There are 2 other sessions using the database."
    ]
    server.scheduler.run(first.session.close())
    assert "There is 1 other session" in admin.execute("DROP DATABASE shop")[0]
    # Somebody who is just leaving is waited for.
    soon_ns = server.scheduler.now_ns() + 1_000_000_000
    server.scheduler.call_at(soon_ns, lambda: server.scheduler.spawn(second.session.close(), "close"))
    assert admin.execute("DROP DATABASE shop") == ["DROP DATABASE"]


def test_force_ends_the_sessions_of_the_database() -> None:
    server = SqlServer()
    admin = server.connect()
    admin.execute("CREATE DATABASE shop")
    sessions = {client.session.process_id: client.session for client in [server.connect(database="shop")]}

    def terminate(process_id: int) -> bool:
        server.scheduler.spawn(sessions[process_id].close(), "close")
        return True

    server.environment.terminate_backend = terminate
    assert admin.execute("DROP DATABASE shop WITH (FORCE)") == ["DROP DATABASE"]
    assert list(server.environment.sessions) == [admin.session.process_id]
