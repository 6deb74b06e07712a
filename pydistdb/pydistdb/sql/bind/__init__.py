"""From SQL text to typed trees: parse, resolve names and types, spell out casts.  See ``analyze.py`` for the way through.

Only this package imports the parser; the rest of SQL sees ``sql/tree.py`` and ``sql/statements.py``.
"""

from pydistdb.sql.bind.analyze import (
    DOMAIN_VALUE_ID,
    analyze,
    analyze_cursor,
    bind_arguments,
    bind_copy_condition,
    bind_domain_check,
    bind_expression,
    bind_scalar,
    expression_label,
    refuse_parameters,
)
from pydistdb.sql.bind.cursors import CursorQuery
from pydistdb.sql.bind.cutting import with_parameters
from pydistdb.sql.bind.normalize import (
    MOST_TEXT,
    Lifted,
    Normalized,
    bind_normalized,
    normalize,
    shape_decides,
    split_integers,
)
from pydistdb.sql.bind.parse import ParsedStatement, parse
from pydistdb.sql.bind.procedure_calls import bind_call_statement
from pydistdb.sql.bind.routines import bind_body as bind_routine_body
from pydistdb.sql.bind.routines import body_statements as parse_routine_body
from pydistdb.sql.bind.stored import default_text

__all__ = [
    "DOMAIN_VALUE_ID",
    "MOST_TEXT",
    "CursorQuery",
    "Lifted",
    "Normalized",
    "ParsedStatement",
    "analyze",
    "analyze_cursor",
    "bind_arguments",
    "bind_call_statement",
    "bind_copy_condition",
    "bind_domain_check",
    "bind_expression",
    "bind_normalized",
    "bind_routine_body",
    "bind_scalar",
    "default_text",
    "expression_label",
    "normalize",
    "parse",
    "parse_routine_body",
    "refuse_parameters",
    "shape_decides",
    "split_integers",
    "with_parameters",
]
