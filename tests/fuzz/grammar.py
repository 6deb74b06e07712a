"""Random statements over a few tables.

Statements are mostly right, and their results do not depend on the plan: LIMIT stands only over a total order, floats are
not added up, and aggregates that keep an order say which.  Equal numbers may be written differently (1.5 and 1.50, in jsonb
too), so where a row stands for its equals, or is taken before them, there are none.  Expressions avoid what may fail for
some rows (overflow, division by zero), since which rows an expression is computed for is up to the planner.
"""

from __future__ import annotations

from random import Random

from tests.fuzz.tree import Node

SCHEMA = """
CREATE TABLE t1 (a int PRIMARY KEY, b int, c text, d numeric(6,2), e date, g bool);
CREATE TABLE t2 (a int, b int NOT NULL, c text, e date, s timestamp, PRIMARY KEY (b, c));
CREATE TABLE t3 (k int, c text, x int[], d numeric, j jsonb);
CREATE INDEX ON t1 (b, c DESC); CREATE INDEX ON t3 (k);
INSERT INTO t1 SELECT i, nullif(i % 7, 3), (array['a','bb','Ccc','',NULL])[i % 5 + 1], i * 1.25 - 10,
  date '2020-01-28' + i, (array[true,false,NULL])[i % 3 + 1] FROM generate_series(1, 24) i;
INSERT INTO t2 SELECT nullif(i % 6, 2), i % 5, chr(97 + i), date '2020-02-27' + i,
  timestamp '2020-02-28 10:30' + i * interval '7 hours 20 minutes' FROM generate_series(0, 14) i;
INSERT INTO t3 SELECT nullif(i % 4, 1), (array['a','b',NULL])[i % 3 + 1], (array['{}','{1,2}','{3,NULL}',NULL])[i % 4 + 1]::int[],
  (i - 5) / 2.0, (array['{"a": 1, "b": [1, "x"]}','[1, 2.50, null]','"a"','{"a": {"b": true}}','5',NULL])[i % 6 + 1]::jsonb
  FROM generate_series(1, 10) i
"""
TABLES = {
    "t1": {"a": "int", "b": "int", "c": "text", "d": "numeric", "e": "date", "g": "bool"},
    "t2": {"a": "int", "b": "int", "c": "text", "e": "date", "s": "timestamp"},
    "t3": {"k": "int", "c": "text", "x": "intarray", "d": "numeric", "j": "jsonb"},
}
TYPES = ("int", "numeric", "text", "bool", "date", "intarray", "timestamp", "jsonb")
WRITTEN_VARIOUSLY = frozenset(("numeric", "jsonb"))
"""Types whose equal values can look different."""
COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
DEEPEST = 4

Scope = list[tuple[str, str]]


class Grammar:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.aliases = 0

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def alias(self) -> str:
        self.aliases += 1
        return f"q{self.aliases}"

    # -------------------------------------------------------------------------------------------- expressions

    def leaf(self, kind: str, scope: Scope) -> Node:
        columns = [name for name, column_kind in scope if column_kind == kind]
        if columns and self.chance(0.8):
            return Node(kind, [self.random.choice(columns)])
        number = self.random.randint(-3, 9)
        constants = {
            "int": (str(number) if number >= 0 else f"({number})", "NULL::int"),
            "numeric": (f"{abs(number)}.{abs(number) % 3}5", "NULL::numeric"),
            "text": ("'a'", "'Bb'", "''", "NULL::text"),
            "bool": ("true", "false", "NULL::bool"),
            "date": (f"date '2020-02-{20 + abs(number)}'", "NULL::date"),
            "timestamp": ("timestamp '2020-02-29 23:59:59.5'", "NULL::timestamp", "timestamp 'infinity'"),
            "jsonb": ("""'{"a": 1}'::jsonb""", "'[1, null]'::jsonb", "NULL::jsonb", "'null'::jsonb"),
            "intarray": ("array[1,2]", "'{}'::int[]", "array[3,NULL]"),
        }
        return Node(kind, [self.random.choice(constants[kind])])

    def expression(self, kind: str, scope: Scope, depth: int = 0) -> Node:
        if depth >= DEEPEST or self.chance(0.3):
            return self.leaf(kind, scope)
        if self.chance(0.06) and depth < 3:
            return self.scalar_query(kind, scope, depth)
        if self.chance(0.12):
            return self.conditional(kind, scope, depth)
        maker = getattr(self, f"_{kind}")
        node: Node = maker(scope, depth + 1)
        return node

    def conditional(self, kind: str, scope: Scope, depth: int) -> Node:
        one, two = (self.expression(kind, scope, depth + 1) for _ in range(2))
        match self.random.randrange(4):
            case 0:
                test = self.expression("bool", scope, depth + 1)
                return Node(kind, ["CASE WHEN ", test, " THEN ", one, " ELSE ", two, " END"])
            case 1:
                return Node(kind, ["coalesce(", one, ", ", two, ")"])
            case 2 if kind != "intarray":
                return Node(kind, ["nullif(", one, ", ", two, ")"])
            case _:
                return Node(kind, [self.pick("greatest", "least"), "(", one, ", ", two, ")"])

    def _int(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        match self.random.randrange(8):
            case 0 | 1:
                return Node("int", ["(", e("int", scope, depth), self.pick(" + ", " - "), e("int", scope, depth), ")"])
            case 2:
                return Node("int", ["(", e("int", scope, depth), " % ", self.pick("2", "3", "5"), ")"])
            case 3:
                return Node("int", ["length(", e("text", scope, depth), ")"])
            case 4:
                return Node("int", ["abs(", e("int", scope, depth), ")"])
            case 5:
                return Node("int", ["extract(day from ", e("date", scope, depth), ")::int"])
            case 6:
                return Node("int", ["(", e("date", scope, depth), " - ", e("date", scope, depth), ")"])
            case _:
                return Node("int", ["coalesce(array_length(", e("intarray", scope, depth), ", 1), 0)"])

    def _numeric(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        match self.random.randrange(4):
            case 0 | 1:
                sign = self.pick(" + ", " - ", " * ")
                return Node("numeric", ["(", e("numeric", scope, depth), sign, e("numeric", scope, DEEPEST), ")"])
            case 2:
                return Node("numeric", [self.pick("round", "trunc"), "(", e("numeric", scope, depth), ", 1)"])
            case _:
                return Node("numeric", ["(", e("int", scope, depth), ")::numeric"])

    def _text(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        match self.random.randrange(10):
            case 5:
                return Node(
                    "text",
                    ["(", e("jsonb", scope, depth), self.pick(" ->> 'a'", " ->> 0", " #>> '{a,b}'", "::text"), ")"],
                )
            case 6:
                pattern = self.pick("YYYY-MM-DD", "Day DDth Mon", "HH24:MI:SS.US", "IYYY-IW", "FMMonth, Q")
                return Node("text", ["to_char(", e("timestamp", scope, depth), f", '{pattern}')"])
            case 7:
                pattern = self.pick("[ab]+", "^.", "x|c", "(b)(.)?")
                return Node("text", ["regexp_replace(", e("text", scope, depth), f", '{pattern}', '<\\\\1>', 'gi')"])
            case 8:
                return Node("text", [self.pick("lpad(", "rpad("), e("text", scope, depth), ", 4, 'xy')"])
            case 9:
                pattern = self.pick("FM999.00", "S0999", "9,999.9", "999PR")
                return Node("text", ["to_char(", e("numeric", scope, depth), f", '{pattern}')"])
            case 0:
                return Node("text", ["(", e("text", scope, depth), " || ", e("text", scope, depth), ")"])
            case 1:
                return Node(
                    "text", [self.pick("upper", "lower", "reverse", "btrim"), "(", e("text", scope, depth), ")"]
                )
            case 2:
                return Node("text", ["substr(", e("text", scope, depth), ", ", e("int", scope, DEEPEST), ")"])
            case 3:
                return Node("text", ["(", e(self.pick("int", "date", "bool"), scope, depth), ")::text"])
            case _:
                return Node("text", ["left(", e("text", scope, depth), ", 2)"])

    def _date(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        if self.chance(0.5):
            return Node("date", ["(", e("date", scope, depth), " + ", e("int", scope, DEEPEST), ")"])
        return Node("date", ["date_trunc('month', ", e("date", scope, depth), ")::date"])

    def _timestamp(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        match self.random.randrange(4):
            case 0:
                step = self.pick("1 day", "-1 month", "3 hours", "1 mon 2 days 00:00:01.5")
                return Node("timestamp", ["(", e("timestamp", scope, depth), f" + interval '{step}')"])
            case 1:
                unit = self.pick("hour", "day", "month", "week", "quarter")
                return Node("timestamp", [f"date_trunc('{unit}', ", e("timestamp", scope, depth), ")"])
            case 2:
                return Node("timestamp", ["(", e("date", scope, depth), ")::timestamp"])
            case _:
                return Node("timestamp", ["(", e("date", scope, depth), " + time '10:20')"])

    def _jsonb(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        match self.random.randrange(7):
            case 0:
                return Node(
                    "jsonb",
                    ["(", e("jsonb", scope, depth), self.pick(" -> 'a'", " -> 0", " -> -1", " #> '{b,0}'"), ")"],
                )
            case 1:
                return Node(
                    "jsonb", ["to_jsonb(", e(self.pick("int", "text", "bool", "intarray", "date"), scope, depth), ")"]
                )
            case 2:
                return Node("jsonb", ["(", e("jsonb", scope, depth), " || ", e("jsonb", scope, depth), ")"])
            case 3:
                value = e(self.pick("int", "text", "numeric"), scope, depth)
                return Node("jsonb", ["jsonb_build_object('k', ", value, ", 'a', ", e("jsonb", scope, depth), ")"])
            case 4:
                return Node("jsonb", ["jsonb_build_array(", e("int", scope, depth), ", ", e("text", scope, depth), ")"])
            case 5:
                return Node("jsonb", ["jsonb_strip_nulls(", e("jsonb", scope, depth), ")"])
            case _:
                return Node("jsonb", ["coalesce(", e("jsonb", scope, depth), ", '{}')"])

    def _intarray(self, scope: Scope, depth: int) -> Node:
        if self.chance(0.5):
            return Node(
                "intarray", ["(", self.leaf("intarray", scope), " || ", self.expression("int", scope, depth), ")"]
            )
        return Node("intarray", ["array[", self.expression("int", scope, depth), "]"])

    def _bool(self, scope: Scope, depth: int) -> Node:
        e = self.expression
        kind = self.pick("int", "int", "text", "numeric", "date", "intarray", "timestamp", "jsonb")
        match self.random.randrange(13):
            case 11:
                return Node(
                    "bool", ["(", e("jsonb", scope, depth), self.pick(" @> ", " <@ "), e("jsonb", scope, depth), ")"]
                )
            case 12:
                words = self.pick(" ? 'a'", " ?| array['a','b']", " ?& array['a']")
                return Node("bool", ["(", e("jsonb", scope, depth), words, ")"])
            case 0 | 1 | 2:
                return Node(
                    "bool", ["(", e(kind, scope, depth), f" {self.pick(*COMPARISONS)} ", e(kind, scope, depth), ")"]
                )
            case 3:
                joiner = self.pick(" AND ", " OR ", " OR ")
                return Node("bool", ["(", e("bool", scope, depth), joiner, e("bool", scope, depth), ")"])
            case 4:
                return Node("bool", ["(NOT ", e("bool", scope, depth), ")"])
            case 5:
                return Node("bool", ["(", e(kind, scope, depth), self.pick(" IS NULL", " IS NOT NULL"), ")"])
            case 6:
                words = self.pick(" IS DISTINCT FROM ", " IS NOT DISTINCT FROM ")
                return Node("bool", ["(", e(kind, scope, depth), words, e(kind, scope, depth), ")"])
            case 7:
                items: list[str | Node] = [
                    "(",
                    e("int", scope, depth),
                    self.pick(" IN (", " NOT IN ("),
                    e("int", scope, depth),
                ]
                return Node("bool", [*items, ", ", e("int", scope, depth), "))"])
            case 8:
                pattern = self.pick("'%a%'", "'_b%'", "'a'", "''")
                return Node(
                    "bool", ["(", e("text", scope, depth), self.pick(" LIKE ", " ILIKE ", " NOT LIKE "), pattern, ")"]
                )
            case 9:
                return Node(
                    "bool",
                    ["(", e("int", scope, depth), self.pick(" = ANY (", " > ALL ("), e("intarray", scope, depth), "))"],
                )
            case _:
                return self.test_query(scope, depth)

    def where(self, scope: Scope, depth: int) -> Node:
        """A WHERE clause, or none."""
        return Node("optional", [" WHERE ", self.expression("bool", scope, depth)] if self.chance(0.6) else [])

    def row(self, scope: Scope, depth: int) -> Node:
        return Node(
            "row", ["(", self.expression("int", scope, depth), ", ", self.expression("text", scope, depth), ")"]
        )

    # -------------------------------------------------------------------------------------------- queries

    def scalar_query(self, kind: str, scope: Scope, depth: int) -> Node:
        table, columns = self.table()
        inner = [*columns, *scope]
        where = self.where(inner, depth + 1)
        if kind in ("int", "numeric", "text", "date", "timestamp"):
            argument = self.expression(kind, inner, depth + 2)
            return Node(kind, ["(SELECT ", self.pick("max", "min"), "(", argument, ") FROM ", table, where, ")"])
        if kind == "bool":
            return Node(
                kind,
                [
                    "(SELECT ",
                    self.pick("bool_and", "bool_or"),
                    "(",
                    self.expression("bool", inner, depth + 2),
                    ") FROM ",
                    table,
                    where,
                    ")",
                ],
            )
        if kind == "jsonb":
            return Node(kind, ["(SELECT to_jsonb(count(*)) FROM ", table, where, ")"])
        argument = self.expression("int", columns, depth + 2)
        return Node(kind, ["ARRAY(SELECT ", argument, " FROM ", table, where, " ORDER BY 1)"])

    def test_query(self, scope: Scope, depth: int) -> Node:
        table, columns = self.table()
        inner = [*columns, *scope]
        where = self.where(inner, depth + 1)
        match self.random.randrange(4):
            case 0:
                return Node("bool", [self.pick("EXISTS", "NOT EXISTS"), " (SELECT 1 FROM ", table, where, ")"])
            case 1:
                left = self.expression("int", scope, depth + 1)
                words = self.pick(" IN ", " NOT IN ", " = ANY ", " < ALL ", " >= ANY ")
                return Node(
                    "bool",
                    [
                        "(",
                        left,
                        words,
                        "(SELECT ",
                        self.expression("int", inner, depth + 1),
                        " FROM ",
                        table,
                        where,
                        "))",
                    ],
                )
            case 2:
                body = [
                    "(SELECT ",
                    self.expression("int", columns, depth + 1),
                    ", ",
                    self.expression("text", columns, depth + 1),
                ]
                return Node(
                    "bool",
                    [
                        "(",
                        self.row(scope, depth + 1),
                        self.pick(" IN ", " NOT IN "),
                        *body,
                        " FROM ",
                        table,
                        where,
                        "))",
                    ],
                )
            case _:
                return Node(
                    "bool",
                    ["(", self.row(scope, depth + 1), f" {self.pick(*COMPARISONS)} ", self.row(scope, depth + 1), ")"],
                )

    def table(self) -> tuple[Node, Scope]:
        name, alias = self.pick(*TABLES), self.alias()
        return Node("table", [f"{name} {alias}"]), [
            (f"{alias}.{column}", kind) for column, kind in TABLES[name].items()
        ]

    def source(self, scope: Scope, depth: int) -> tuple[Node, Scope]:
        """An item of FROM; ``scope``: what it may refer to (LATERAL)."""
        match self.random.randrange(8):
            case 0 if depth < 2:
                query, kinds = self.query([], depth + 1)
                alias = self.alias()
                return Node("table", ["(", query, f") {alias} ({self._names(kinds)})"]), self._columns(alias, kinds)
            case 1 if depth < 2 and scope:
                query, kinds = self.query(scope, depth + 1)
                alias = self.alias()
                return Node("table", ["LATERAL (", query, f") {alias} ({self._names(kinds)})"]), self._columns(
                    alias, kinds
                )
            case 2:
                alias = self.alias()
                stop = self.expression("int", scope, 3)
                return Node("table", ["generate_series(1, ", stop, f" % 5) {alias} (c0)"]), [(f"{alias}.c0", "int")]
            case 3:
                alias = self.alias()
                rows = ", ".join(f"({i}, '{self.pick('a', 'b', 'zz')}')" for i in range(self.random.randint(1, 3)))
                return Node("table", [f"(VALUES {rows}) {alias} (c0, c1)"]), [
                    (f"{alias}.c0", "int"),
                    (f"{alias}.c1", "text"),
                ]
            case _:
                return self.table()

    @staticmethod
    def _names(kinds: list[str]) -> str:
        return ", ".join(f"c{index}" for index in range(len(kinds)))

    @staticmethod
    def _columns(alias: str, kinds: list[str]) -> Scope:
        return [(f"{alias}.c{index}", kind) for index, kind in enumerate(kinds)]

    def from_clause(self, outer: Scope, depth: int) -> tuple[Node, Scope]:
        node, scope = self.source(outer, depth)
        parts: list[str | Node] = [node]
        for _ in range(self.random.choice((0, 0, 1, 1, 2))):
            join = self.pick(
                " JOIN ", " LEFT JOIN ", " LEFT JOIN ", " CROSS JOIN ", " FULL JOIN ", " RIGHT JOIN ", " LEFT JOIN "
            )
            lateral = [] if join in (" FULL JOIN ", " RIGHT JOIN ") else scope
            other, columns = self.source([*lateral, *outer] if lateral else [], depth)
            both = [*scope, *columns]
            parts += [join, other]
            if join == " FULL JOIN ":  # Postgres needs an equality that it can hash or merge
                left = [name for name, kind in scope if kind == "int"] or ["1"]
                right = [name for name, kind in columns if kind == "int"] or ["1"]
                if left == ["1"] or right == ["1"]:
                    parts[-2] = " LEFT JOIN "
                    parts += [" ON ", self.expression("bool", both, 2)]
                else:
                    parts += [f" ON {self.random.choice(left)} = {self.random.choice(right)}"]
            elif join != " CROSS JOIN ":
                parts += [" ON ", self.expression("bool", both, 2)]
            scope = both
        return Node("from", parts), scope

    def query(self, outer: Scope, depth: int = 0, kinds: list[str] | None = None) -> tuple[Node, list[str]]:
        """A SELECT, perhaps several by a set operation; with the types of its columns."""
        if kinds is None:
            kinds = [self.pick(*TYPES) for _ in range(self.random.randint(1, 3))]
        if self.chance(0.12) and depth < 2:
            left, _ = self.select(outer, depth + 1, kinds)
            right, _ = self.select(outer, depth + 1, kinds)
            words = self.pick(" UNION ", " UNION ALL ", " INTERSECT ", " EXCEPT ", " EXCEPT ALL ", " INTERSECT ALL ")
            if not WRITTEN_VARIOUSLY.isdisjoint(kinds):
                words = " UNION ALL "
            node = Node("query", ["(", left, ")", words, "(", right, ")"])
        else:
            node, _ = self.select(outer, depth, kinds)
        if self.chance(0.3 if depth else 0.25):
            positions = ", ".join(
                f"{index + 1}{self.pick('', ' DESC', ' NULLS FIRST', ' DESC NULLS LAST')}"
                for index in range(len(kinds))
            )
            limit = self.pick("", f" LIMIT {self.random.randint(0, 6)}", f" LIMIT 4 OFFSET {self.random.randint(0, 4)}")
            if not WRITTEN_VARIOUSLY.isdisjoint(kinds):
                limit = ""
            node = Node("query", [node, Node("optional", [f" ORDER BY {positions}{limit}"])])
        return node, kinds

    def select(self, outer: Scope, depth: int, kinds: list[str]) -> tuple[Node, list[str]]:
        source, scope = self.from_clause(outer, depth)
        visible = [*scope, *outer]
        where = (
            Node("optional", [" WHERE ", self.expression("bool", visible, 1)])
            if self.chance(0.6)
            else Node("optional", [])
        )
        if self.chance(0.3):
            return self.grouped(source, scope, visible, where, kinds), kinds
        targets = [self.expression(kind, visible, 1) for kind in kinds]
        if self.chance(0.15):
            index = self.random.randrange(len(kinds))
            window = self.window(kinds[index], scope)
            targets[index] = window or targets[index]
        distinct = "DISTINCT " if self.chance(0.15) and WRITTEN_VARIOUSLY.isdisjoint(kinds) else ""
        return Node("query", [f"SELECT {distinct}", *self.separated(targets), " FROM ", source, where]), kinds

    @staticmethod
    def separated(nodes: list[Node]) -> list[str | Node]:
        return [part for node in nodes for part in (", ", node)][1:]

    def window(self, kind: str, scope: Scope) -> Node | None:
        """A window function whose result does not depend on the order of peers."""
        if kind not in ("int", "numeric") or not scope:
            return None
        partition = Node("optional", ["PARTITION BY ", self.expression("int", scope, 3), " "])
        order = self.random.choice([name for name, kind_ in scope if kind_ not in ("intarray", "jsonb")] or ["1"])
        call = self.pick("rank()", "dense_rank()", "count(*)")
        tail = f"ORDER BY {order}{self.pick('', ' DESC')}"
        if call == "count(*)":
            tail += self.pick(
                "", " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW", " RANGE UNBOUNDED PRECEDING EXCLUDE GROUP"
            )
        cast = "::int" if kind == "int" else "::numeric"
        return Node(kind, [f"({call} OVER (", partition, tail, f")){cast}"])

    def grouped(self, source: Node, scope: Scope, visible: Scope, where: Node, kinds: list[str]) -> Node:
        groups = [self.expression(self.pick("int", "text"), scope, 3) for _ in range(self.random.randint(0, 2))]
        groups = [group for group in groups if "q" in group.sql()]  # Postgres forgets some constants that it groups by
        own: list[tuple[Node, str]] = [(group, group.kind) for group in groups]
        targets: list[Node] = []
        for kind in kinds:
            same = [group for group, group_kind in own if group_kind == kind]
            if same and self.chance(0.6):
                targets.append(Node(kind, [self.random.choice(same).sql()]))
            else:
                targets.append(self.aggregate(kind, scope))
        by = Node("optional", [])
        if groups:
            words = self.pick("", "", "", "ROLLUP ", "CUBE ")
            listed = ", ".join(group.sql() for group in groups)
            by = Node("by", [f" GROUP BY {words}({listed})" if words else f" GROUP BY {listed}"])
        having = (
            Node("optional", [" HAVING ", self.aggregate("int", scope), " > 1"])
            if self.chance(0.3)
            else Node("optional", [])
        )
        return Node("query", ["SELECT ", *self.separated(targets), " FROM ", source, where, by, having])

    def aggregate(self, kind: str, scope: Scope) -> Node:
        filtered = (
            Node("optional", [" FILTER (WHERE ", self.expression("bool", scope, 3), ")"])
            if self.chance(0.2)
            else Node("optional", [])
        )
        argument = self.expression(kind, scope, 3)
        match kind:
            case "jsonb":
                number = self.expression(self.pick("int", "text", "jsonb"), scope, 3)
                ordered = [" ORDER BY ", Node(number.kind, [number.sql()])]
                return Node(kind, ["jsonb_agg(", number, *ordered, ")", filtered])
            case "int":
                other = self.expression(self.pick("int", "text"), scope, 3)
                choice = self.random.randrange(4)
                if choice == 0:
                    return Node(kind, ["count(*)", filtered, "::int"])
                if choice == 1:
                    return Node(kind, [f"count({self.pick('', 'DISTINCT ')}", other, ")", filtered, "::int"])
                if choice == 2:
                    return Node(kind, ["sum(", argument, ")", filtered, "::int"])
                return Node(kind, [self.pick("max", "min"), "(", argument, ")", filtered])
            case "numeric":
                return Node(kind, [self.pick("sum", "max", "avg"), "(", argument, ")", filtered])
            case "text" if self.chance(0.4):
                return Node(
                    kind, ["string_agg(", argument, ", ',' ORDER BY ", Node("text", [argument.sql()]), ")", filtered]
                )
            case "bool":
                return Node(kind, [self.pick("bool_and", "bool_or"), "(", argument, ")", filtered])
            case "intarray":
                number = self.expression("int", scope, 3)
                return Node(kind, ["array_agg(", number, " ORDER BY ", Node("int", [number.sql()]), ")", filtered])
        return Node(kind, [self.pick("max", "min"), "(", argument, ")", filtered])

    # -------------------------------------------------------------------------------------------- changes

    def change(self) -> Node:
        columns = [(f"t1.{name}", kind) for name, kind in TABLES["t1"].items()]
        returning = Node(
            "optional",
            [" RETURNING ", *self.separated([self.expression("int", columns, 2), self.leaf("text", columns)])],
        )
        where = Node("optional", [" WHERE ", self.expression("bool", columns, 1)])
        settable = {"b": "int", "c": "text", "e": "date", "g": "bool"}
        name = self.pick(*settable)
        value = self.expression(settable[name], columns, 2)
        match self.random.randrange(5):
            case 0:
                return Node("change", [f"UPDATE t1 SET {name} = ", value, where, returning])
            case 1:
                other, more = self.table()
                return Node(
                    "change",
                    [
                        "DELETE FROM t1 USING ",
                        other,
                        " WHERE ",
                        self.expression("bool", [*columns, *more], 1),
                        " RETURNING t1.a",
                    ],
                )
            case 2:
                query, _ = self.query([], 1, ["int", "text"])
                key = Node(
                    "query",
                    [
                        "SELECT 100 + row_number() OVER (ORDER BY c0, c1), c0, left(c1, 100) FROM (",
                        query,
                        ") q0 (c0, c1)",
                    ],
                )
                return Node("change", ["INSERT INTO t1 (a, b, c) ", key, returning])
            case 3:
                excluded = [*columns, *((f"excluded.{column}", kind) for column, kind in TABLES["t1"].items())]
                update = Node("int", [self.expression("int", excluded, 2).sql()])
                return Node(
                    "change",
                    [
                        "INSERT INTO t1 (a, b, c) SELECT DISTINCT b + 20, b, 'new' FROM t2 ON CONFLICT (a) DO UPDATE SET b = ",
                        update,
                        returning,
                    ],
                )
            case _:
                target = [*columns, ("s.b", "int"), ("s.c", "text")]
                parts: list[str | Node] = [
                    "MERGE INTO t1 USING (SELECT DISTINCT ON (b) b + 20 AS b, c FROM t2 ORDER BY b, c) s ON t1.a = s.b"
                ]
                parts += [
                    " WHEN MATCHED AND ",
                    self.expression("bool", target, 2),
                    f" THEN UPDATE SET {name} = ",
                    self.expression(settable[name], target, 2),
                ]
                parts += [
                    Node("optional", [" WHEN MATCHED THEN DELETE"]),
                    Node("optional", [" WHEN NOT MATCHED THEN INSERT (a, b, c) VALUES (s.b, 1, s.c)"]),
                ]
                return Node("change", parts)

    def statement(self) -> Node:
        if self.chance(0.2):
            return self.change()
        if self.chance(0.12):
            inner, kinds = self.query([], 1)
            alias = self.alias()
            words = self.pick("", "MATERIALIZED ", "NOT MATERIALIZED ")
            columns = self._columns(alias, kinds)
            where = Node("optional", [" WHERE ", self.expression("bool", columns, 2)])
            return Node(
                "query", [f"WITH {alias} ({self._names(kinds)}) AS {words}(", inner, f") SELECT * FROM {alias}", where]
            )
        node, _ = self.query([])
        return node
