"""The registry answers what the binder asks."""

from __future__ import annotations

from pydistdb.sql.functions import registry
from pydistdb.sql.functions.define import FUNCTIONS_BY_NAME
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import AggregateFunction, EvalContext, Function
from pydistdb.sql.types.registry import (
    ANYELEMENT,
    DATE,
    INT4,
    INT8,
    NUMERIC,
    REGCLASS,
    TEXT,
    TIMESTAMPTZ,
    UNKNOWN,
    VARCHAR,
    array_of,
)


def test_operators_have_postgres_oids_and_functions() -> None:
    operator = registry.operator_for("+", INT4.oid, INT4.oid)
    assert operator is not None
    assert (operator.oid, operator.function.oid, operator.function.name) == (551, 177, "int4pl")
    less = registry.operator_for("<", INT4.oid, INT8.oid)
    assert less is not None
    assert (less.function.name, less.commutator, less.negator) == ("int48lt", ">", ">=")


def test_prefix_operators_have_zero_on_the_left() -> None:
    operator = registry.operator_for("-", 0, NUMERIC.oid)
    assert operator is not None and operator.left is None


def test_casts_are_listed_or_go_through_text() -> None:
    contexts = {
        (INT4, INT8): "i",
        (INT8, INT4): "a",
        (INT4, TEXT): "a",
        (TEXT, INT4): "e",
        (VARCHAR, TEXT): "i",
        (UNKNOWN, DATE): "i",
        (INT4, REGCLASS): "i",
    }
    for (source, target), context in contexts.items():
        cast = registry.cast(source.oid, target.oid)
        assert cast is not None and cast.context == context, (source.name, target.name)
    assert registry.cast(INT4.oid, DATE.oid) is None
    assert registry.cast(INT4.oid, INT4.oid) is None


def test_arrays_are_cast_as_their_items_are() -> None:
    cast = registry.cast(array_of(INT8).oid, array_of(INT4).oid)
    assert cast is not None and cast.context == "a"


def test_length_coercions_take_value_modifier_and_explicitness() -> None:
    function = registry.length_coercion(VARCHAR)
    assert function is not None
    assert function.implementation("abcdef", 3 + 4, True) == "abc"
    assert registry.length_coercion(TEXT) is None


def test_specialized_functions_are_cached() -> None:
    (generic,) = registry.functions("to_json")
    assert generic.argument_types == (ANYELEMENT,)
    first = registry.specialize(generic, [DATE], types.JSON)
    assert first is registry.specialize(generic, [DATE], types.JSON)
    assert isinstance(first, Function)
    assert first.argument_types == (DATE,)
    assert first.implementation(EvalContext(), 0) == '"2000-01-01"'


def test_window_functions_are_marked() -> None:
    assert all(isinstance(f, Function) and f.window for f in registry.functions("lag"))
    assert not any(isinstance(f, Function) and f.window for f in registry.functions("lower"))


def test_functions_that_postgres_alone_has_are_known() -> None:
    assert registry.is_lacking("array_in")
    assert not registry.is_lacking("lower")
    assert not registry.is_lacking("no_such_function")


def test_signatures_are_unique() -> None:
    for name, functions in FUNCTIONS_BY_NAME.items():
        signatures = [tuple(t.oid for t in f.argument_types) for f in functions]
        assert len(signatures) == len(set(signatures)), name


def test_set_returning_functions_name_their_columns() -> None:
    (each,) = registry.functions("json_each")
    assert isinstance(each, Function)
    assert [name for name, _ in each.out_columns] == ["key", "value"]


def test_volatility_comes_from_postgres() -> None:
    volatility = {f.name: f.volatility for name in ("now", "random", "lower") for f in registry.functions(name)}
    assert volatility == {"now": "s", "random": "v", "lower": "i"}


def test_defaults_can_be_named() -> None:
    (function,) = registry.functions("make_interval")
    assert isinstance(function, Function)
    assert function.argument_names[3] == "days"
    assert len(function.default_values) == function.default_count == 7


def test_ordered_set_aggregates_say_how_many_arguments_are_direct() -> None:
    for function in registry.functions("percentile_disc"):
        assert isinstance(function, AggregateFunction)
        assert function.ordered_set and function.direct_count == 1


def test_types_are_found_by_any_spelling() -> None:
    for name, expected in {
        "integer": INT4,
        "double precision": types.FLOAT8,
        "timestamp with  time zone": TIMESTAMPTZ,
        "CHARACTER VARYING": VARCHAR,
        "text[]": array_of(TEXT),
        "_int4": array_of(INT4),
    }.items():
        assert types.type_by_name(name) == expected
    assert types.type_by_name("nonsense") is None


def test_types_are_spelt_as_sql_does() -> None:
    for (oid, modifier), expected in {
        (1043, 14): "character varying(10)",
        (1700, (5 << 16 | 2) + 4): "numeric(5,2)",
        (1007, -1): "integer[]",
        (1184, 3): "timestamp(3) with time zone",
        (1042, -1): "bpchar",
        (1042, None): "character",
        (0, -1): "-",
    }.items():
        assert types.format_type(oid, modifier) == expected
