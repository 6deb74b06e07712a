"""The types PyDistDB knows, as rows of pg_type with PostgreSQL's own oids.

Clients look at oids (a driver decodes 20 as a 64-bit integer), so they are not ours to choose.  Array types are derived
here from their item type: ``INT4`` with array oid 1007 brings ``_int4`` along.

    >>> TYPES_BY_OID[1007].name
    '_int4'

Source: PostgreSQL 15, catalog pg_type.
"""

from __future__ import annotations

from pydistdb.sql.types.base import SqlType

TYPES_BY_OID: dict[int, SqlType] = {}
TYPES_BY_NAME: dict[str, SqlType] = {}


def _add(sql_type: SqlType) -> SqlType:
    TYPES_BY_OID[sql_type.oid] = sql_type
    TYPES_BY_NAME[sql_type.name] = sql_type
    return sql_type


def _base(
    oid: int,
    name: str,
    length: int,
    category: str,
    *,
    preferred: bool = False,
    array_oid: int = 0,
    element_oid: int = 0,
) -> SqlType:
    if array_oid:
        _add(SqlType(array_oid, "_" + name, -1, "A", element_oid=oid))
    return _add(SqlType(oid, name, length, category, preferred, element_oid, array_oid))


BOOL = _base(16, "bool", 1, "B", preferred=True, array_oid=1000)
BYTEA = _base(17, "bytea", -1, "U", array_oid=1001)
CHAR = _base(18, "char", 1, "Z", array_oid=1002)
NAME = _base(19, "name", 64, "S", array_oid=1003)
INT8 = _base(20, "int8", 8, "N", array_oid=1016)
INT2 = _base(21, "int2", 2, "N", array_oid=1005)
INT2VECTOR = _base(22, "int2vector", -1, "A", array_oid=1006, element_oid=21)
INT4 = _base(23, "int4", 4, "N", array_oid=1007)
REGPROC = _base(24, "regproc", 4, "N", array_oid=1008)
TEXT = _base(25, "text", -1, "S", preferred=True, array_oid=1009)
OID = _base(26, "oid", 4, "N", preferred=True, array_oid=1028)
TID = _base(27, "tid", 6, "U", array_oid=1010)
XID = _base(28, "xid", 4, "U", array_oid=1011)
CID = _base(29, "cid", 4, "U", array_oid=1012)
OIDVECTOR = _base(30, "oidvector", -1, "A", array_oid=1013, element_oid=26)
JSON = _base(114, "json", -1, "U", array_oid=199)
PG_NODE_TREE = _base(194, "pg_node_tree", -1, "Z")
FLOAT4 = _base(700, "float4", 4, "N", array_oid=1021)
FLOAT8 = _base(701, "float8", 8, "N", preferred=True, array_oid=1022)
ACLITEM = _base(1033, "aclitem", 12, "U", array_oid=1034)
BPCHAR = _base(1042, "bpchar", -1, "S", array_oid=1014)
VARCHAR = _base(1043, "varchar", -1, "S", array_oid=1015)
DATE = _base(1082, "date", 4, "D", array_oid=1182)
TIME = _base(1083, "time", 8, "D", array_oid=1183)
TIMESTAMP = _base(1114, "timestamp", 8, "D", array_oid=1115)
TIMESTAMPTZ = _base(1184, "timestamptz", 8, "D", preferred=True, array_oid=1185)
INTERVAL = _base(1186, "interval", 16, "T", preferred=True, array_oid=1187)
TIMETZ = _base(1266, "timetz", 12, "D", array_oid=1270)
NUMERIC = _base(1700, "numeric", -1, "N", array_oid=1231)
REGPROCEDURE = _base(2202, "regprocedure", 4, "N", array_oid=2207)
REGOPER = _base(2203, "regoper", 4, "N", array_oid=2208)
REGOPERATOR = _base(2204, "regoperator", 4, "N", array_oid=2209)
REGCLASS = _base(2205, "regclass", 4, "N", array_oid=2210)
REGTYPE = _base(2206, "regtype", 4, "N", array_oid=2211)
CIDR = _base(650, "cidr", -1, "I", array_oid=651)
MACADDR8 = _base(774, "macaddr8", 8, "U", array_oid=775)
MONEY = _base(790, "money", 8, "N", array_oid=791)
MACADDR = _base(829, "macaddr", 6, "U", array_oid=1040)
INET = _base(869, "inet", -1, "I", preferred=True, array_oid=1041)
BIT = _base(1560, "bit", -1, "V", array_oid=1561)
VARBIT = _base(1562, "varbit", -1, "V", preferred=True, array_oid=1563)
UUID = _base(2950, "uuid", 16, "U", array_oid=2951)
JSONB = _base(3802, "jsonb", -1, "U", array_oid=3807)
JSONPATH = _base(4072, "jsonpath", -1, "U", array_oid=4073)
REGNAMESPACE = _base(4089, "regnamespace", 4, "N", array_oid=4090)
REGROLE = _base(4096, "regrole", 4, "N", array_oid=4097)
REGCOLLATION = _base(4191, "regcollation", 4, "N", array_oid=4192)
XID8 = _base(5069, "xid8", 8, "U", array_oid=271)
TXID_SNAPSHOT = _base(2970, "txid_snapshot", -1, "U", array_oid=2949)
PG_LSN = _base(3220, "pg_lsn", 8, "U", array_oid=3221)
PG_SNAPSHOT = _base(5038, "pg_snapshot", -1, "U", array_oid=5039)

UNKNOWN = _base(705, "unknown", -2, "X")
RECORD = _base(2249, "record", -1, "P", array_oid=2287)
CSTRING = _base(2275, "cstring", -2, "P", array_oid=1263)
ANY = _base(2276, "any", 4, "P")
ANYARRAY = _base(2277, "anyarray", -1, "P")
VOID = _base(2278, "void", 4, "P")
TRIGGER = _base(2279, "trigger", 4, "P")
INTERNAL = _base(2281, "internal", 8, "P")
ANYELEMENT = _base(2283, "anyelement", 4, "P")
ANYNONARRAY = _base(2776, "anynonarray", 4, "P")
ANYENUM = _base(3500, "anyenum", 4, "P")
ANYCOMPATIBLE = _base(5077, "anycompatible", 4, "P")
ANYCOMPATIBLEARRAY = _base(5078, "anycompatiblearray", -1, "P")
ANYCOMPATIBLENONARRAY = _base(5079, "anycompatiblenonarray", 4, "P")

POLYMORPHIC = frozenset(
    t.oid
    for t in (ANYELEMENT, ANYARRAY, ANYNONARRAY, ANYENUM, ANYCOMPATIBLE, ANYCOMPATIBLEARRAY, ANYCOMPATIBLENONARRAY)
)
REG_TYPES = frozenset(
    t.oid for t in (REGPROC, REGPROCEDURE, REGOPER, REGOPERATOR, REGCLASS, REGTYPE, REGNAMESPACE, REGROLE, REGCOLLATION)
)
