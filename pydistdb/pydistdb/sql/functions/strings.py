"""Text concatenation."""

from __future__ import annotations

from typing import Any

from pydistdb.sql.functions.define import Body, define, specializes
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.registry import io

define("textcat(text,text)", lambda left, right: left + right, inline="({0} + {1})")


@specializes("textanycat(text,anynonarray)", context=True)
def _text_and_any(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = io(argument_types[1].oid).format

    def concatenate(context: EvalContext, left: str, right: Any) -> str:
        return left + format_(right, context)

    return concatenate


@specializes("anytextcat(anynonarray,text)", context=True)
def _any_and_text(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = io(argument_types[0].oid).format

    def concatenate(context: EvalContext, left: Any, right: str) -> str:
        return format_(left, context) + right

    return concatenate
