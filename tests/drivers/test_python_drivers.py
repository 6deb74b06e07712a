"""psycopg 3, asyncpg, pg8000 and SQLAlchemy: connect, parameters, COPY, transactions, types, SQLSTATEs."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import asyncpg
import pg8000.dbapi
import psycopg
import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from pydistdb_tools.local_cluster import LocalCluster

VALUES: dict[str, Any] = {
    "bool": True,
    "smallint": -32768,
    "integer": 2147483647,
    "bigint": -(2**63),
    "real": 1.5,
    "double precision": -2.5e300,
    "numeric": Decimal("123456789012345678901234567890.0123456789"),
    "text": "snö ☃ 'quoted' \\ back",
    "varchar(20)": "short",
    "bytea": bytes(range(256)),
    "date": dt.date(2024, 2, 29),
    "time": dt.time(23, 59, 59, 999999),
    "timestamp": dt.datetime(1999, 12, 31, 23, 59, 59, 1),
    "timestamptz": dt.datetime(2030, 6, 1, 12, 0, tzinfo=dt.UTC),
    "interval": dt.timedelta(days=3, seconds=4, microseconds=5),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
}
COLUMNS = [f"c{position}" for position in range(len(VALUES))]
TABLE = ", ".join(f"{name} {kind}" for name, kind in zip(COLUMNS, VALUES, strict=True))


@pytest.fixture
def url(one_node: LocalCluster) -> Iterator[str]:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS every_type, items")
        connection.execute(f"CREATE TABLE every_type (id int PRIMARY KEY, {TABLE})")
        connection.execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL UNIQUE, price numeric CHECK (price > 0))"
        )
    yield one_node.nodes[0].url


def _as_read(row: Any) -> list[Any]:
    return [bytes(value) if isinstance(value, memoryview | bytearray) else value for value in row]


@pytest.mark.parametrize("binary", [False, True])
def test_psycopg(url: str, binary: bool) -> None:
    places = ", ".join(["%s"] * (len(VALUES) + 1))
    with psycopg.connect(url) as connection:
        with connection.cursor(binary=binary) as cursor:
            cursor.execute(f"INSERT INTO every_type VALUES ({places})", (1, *VALUES.values()))
            cursor.execute(f"INSERT INTO every_type VALUES ({places})", (2, *([None] * len(VALUES))))
            cursor.execute("SELECT * FROM every_type ORDER BY id")
            assert [column.name for column in cursor.description or ()] == ["id", *COLUMNS]
            assert cursor.fetchall() == [(1, *VALUES.values()), (2, *([None] * len(VALUES)))]
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM every_type").fetchone() == (0,)
        with connection.cursor() as cursor:
            with cursor.copy("COPY items FROM STDIN") as copy:
                for number in range(1000):
                    copy.write_row((number, f"name\t{number}", Decimal(number + 1) / 4))
            assert cursor.rowcount == 1000
            cursor.executemany("UPDATE items SET price = price + %s WHERE id = %s RETURNING price", [(1, 3), (2, 4)])
        connection.commit()
        out = b""
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY (SELECT id, price FROM items WHERE id < 5 ORDER BY id) TO STDOUT") as c,
        ):
            for block in c:
                out += bytes(block)
        assert out == b"0\t0.25\n1\t0.5\n2\t0.75\n3\t2\n4\t3.25\n"
        with connection.pipeline():
            cursors = [connection.execute("SELECT name FROM items WHERE id = %s", (n,)) for n in range(10)]
        assert [cursor.fetchone() for cursor in cursors] == [(f"name\t{n}",) for n in range(10)]


def test_psycopg_inserts_many_with_a_sequence(url: str) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE numbered (id serial PRIMARY KEY, name text)")
        cursor.executemany("INSERT INTO numbered (name) VALUES (%s)", [(str(number),) for number in range(30)])
        cursor.execute("SELECT count(*), count(DISTINCT id) FROM numbered")
        assert cursor.fetchone() == (30, 30)


@pytest.mark.parametrize(
    ("statement", "error", "state"),
    [
        ("SELEC 1", psycopg.errors.SyntaxError, "42601"),
        ("SELECT nope FROM items", psycopg.errors.UndefinedColumn, "42703"),
        ("SELECT * FROM nope", psycopg.errors.UndefinedTable, "42P01"),
        ("INSERT INTO items VALUES (1, 'a', 1), (1, 'b', 1)", psycopg.errors.UniqueViolation, "23505"),
        ("INSERT INTO items VALUES (1, NULL, 1)", psycopg.errors.NotNullViolation, "23502"),
        ("INSERT INTO items VALUES (1, 'a', -1)", psycopg.errors.CheckViolation, "23514"),
        ("SELECT 1/0", psycopg.errors.DivisionByZero, "22012"),
        ("SELECT 'x'::int", psycopg.errors.InvalidTextRepresentation, "22P02"),
        ("SELECT 2147483647 + 1", psycopg.errors.NumericValueOutOfRange, "22003"),
        ("SELECT nope(1)", psycopg.errors.UndefinedFunction, "42883"),
    ],
)
def test_errors_have_postgres_codes(url: str, statement: str, error: type[psycopg.Error], state: str) -> None:
    with psycopg.connect(url) as connection:
        with pytest.raises(error) as caught:
            connection.execute(statement)
        assert caught.value.sqlstate == state
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_asyncpg(url: str) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(url)
        places = ", ".join(f"${n}" for n in range(1, len(VALUES) + 2))
        await connection.execute(f"INSERT INTO every_type VALUES ({places})", 1, *VALUES.values())
        row = await connection.fetchrow("SELECT * FROM every_type WHERE id = $1", 1)
        assert list(row) == [1, *VALUES.values()]
        statement = await connection.prepare("SELECT $1::int + $2::bigint")
        assert await statement.fetchval(1, 2) == 3
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO every_type (id) VALUES (1)")
        async with connection.transaction():
            await connection.executemany(
                "INSERT INTO items VALUES ($1, $2, $3)", [(n, str(n), Decimal(1)) for n in range(50)]
            )
            seen = [record["id"] async for record in connection.cursor("SELECT id FROM items ORDER BY id", prefetch=7)]
            assert seen == list(range(50))
        records = [(100 + n, f"r{n}", Decimal(2)) for n in range(10)]
        assert await connection.copy_records_to_table("items", records=records) == "COPY 10"
        assert await connection.fetchval("SELECT count(*) FROM items WHERE id = ANY($1::int[])", [1, 2, 100, 999]) == 3
        await connection.close()

    asyncio.run(talk())


def test_asyncpg_prepares_again_after_a_schema_change(url: str) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO items VALUES (1, 'one', 1)")
        assert tuple(await connection.fetchrow("SELECT * FROM items")) == (1, "one", Decimal(1))
        await connection.execute("ALTER TABLE items ALTER COLUMN price TYPE bigint")
        assert tuple(await connection.fetchrow("SELECT * FROM items")) == (1, "one", 1)
        await connection.close()

    asyncio.run(talk())


def test_asyncpg_failed_transaction_keeps_no_portal(url: str) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(url)
        transaction = connection.transaction()
        await transaction.start()
        cursor = await connection.cursor("SELECT pg_sleep(10)")
        with pytest.raises(asyncio.TimeoutError):
            await cursor.fetchrow(timeout=0.1)
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await cursor.fetch(1)
        await transaction.rollback()
        await connection.close()

    asyncio.run(talk())


def test_pg8000(one_node: LocalCluster, url: str) -> None:
    connection = pg8000.dbapi.connect(
        user="postgres", host="127.0.0.1", port=one_node.nodes[0].sql_port, database="postgres"
    )
    cursor = connection.cursor()
    places = ", ".join(["%s"] * (len(VALUES) + 1))
    cursor.execute(f"INSERT INTO every_type VALUES ({places})", (1, *VALUES.values()))
    cursor.execute("SELECT * FROM every_type")
    assert _as_read(cursor.fetchone()) == [1, *VALUES.values()]
    connection.rollback()
    cursor.execute("COPY items FROM STDIN WITH (FORMAT csv)", stream=io.BytesIO(b'1,"a, b",2.50\n2,c,3\n'))
    cursor.execute("SELECT name, price FROM items ORDER BY id")
    assert [list(row) for row in cursor.fetchall()] == [["a, b", Decimal("2.50")], ["c", Decimal("3")]]
    connection.commit()
    with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
        cursor.execute("INSERT INTO items VALUES (1, 'z', 1)")
    assert caught.value.args[0]["C"] == "23505"
    connection.rollback()
    connection.close()


class Base(sa.orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_authors"
    id: sa.orm.Mapped[int] = sa.orm.mapped_column(primary_key=True, autoincrement=False)
    name: sa.orm.Mapped[str] = sa.orm.mapped_column(sa.String(50), unique=True)
    books: sa.orm.Mapped[list[Book]] = sa.orm.relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    __tablename__ = "sa_books"
    id: sa.orm.Mapped[int] = sa.orm.mapped_column(primary_key=True, autoincrement=False)
    title: sa.orm.Mapped[str]
    price: sa.orm.Mapped[Decimal] = sa.orm.mapped_column(sa.Numeric(10, 2))
    author_id: sa.orm.Mapped[int] = sa.orm.mapped_column(sa.ForeignKey("sa_authors.id"))
    author: sa.orm.Mapped[Author] = sa.orm.relationship(back_populates="books")


def test_sqlalchemy(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with sa.orm.Session(engine) as session:
        author = Author(id=1, name="Ada", books=[Book(id=n, title=f"Vol {n}", price=Decimal("9.99")) for n in (1, 2)])
        session.add(author)
        session.commit()
        found = session.scalars(sa.select(Author).join(Book).where(Book.title == "Vol 2")).one()
        assert [book.title for book in found.books] == ["Vol 1", "Vol 2"]
        total = session.execute(sa.select(sa.func.sum(Book.price), sa.func.count())).one()
        assert tuple(total) == (Decimal("19.98"), 2)
        session.add(Author(id=2, name="Ada"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
    inspector = sa.inspect(engine)
    assert {"sa_authors", "sa_books"} <= set(inspector.get_table_names())
    assert [column["name"] for column in inspector.get_columns("sa_books")] == ["id", "title", "price", "author_id"]
    assert inspector.get_pk_constraint("sa_books")["constrained_columns"] == ["id"]
    assert inspector.get_foreign_keys("sa_books")[0]["referred_table"] == "sa_authors"
    Base.metadata.drop_all(engine)
    engine.dispose()
