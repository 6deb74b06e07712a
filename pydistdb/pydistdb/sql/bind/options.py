"""Options as the parser gives them (DefElem), of sequences and identity columns, and values of settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydistdb.sql.bind.naming import constant_value, strings
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.settings import posix_zone

OptionValue = int | str | bool | None
OptionList = tuple[tuple[str, OptionValue], ...]


def option_value(element: Node) -> Any:
    """The value of a DefElem: a number, text, bool, None if it has none, or a tuple of texts."""
    argument = element.get("arg")
    if argument is None:
        return None
    if "List" in argument:
        return strings(argument["List"]["items"])
    if "A_Star" in argument:
        return ("*",)
    if "TypeName" in argument:
        return argument["TypeName"]["names"][-1]["String"]["sval"]
    return constant_value(argument)


_HOURS_AND_MINUTES = re.compile(r"([+-]?)(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?")


def setting_text(wrapper: Node) -> str:
    """A value in SET."""
    if "TypeCast" in wrapper:  # SET TIME ZONE INTERVAL '-8' HOUR TO MINUTE
        value = constant_value(wrapper["TypeCast"]["arg"])
        span = _HOURS_AND_MINUTES.fullmatch(str(value).strip())
        if span is None:
            return str(value)
        seconds = int(span[2]) * 3600 + int(span[3]) * 60 + int(span[4] or 0)
        return posix_zone(-seconds if span[1] == "-" else seconds)
    value = constant_value(wrapper)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def sequence_options(options: Sequence[Node]) -> OptionList:
    """Names and values; a dotted name as text."""
    result: list[tuple[str, OptionValue]] = []
    for wrapper in options:
        element = wrapper["DefElem"]
        value = option_value(element)
        result.append((element["defname"], ".".join(value) if isinstance(value, tuple) else value))
    return tuple(result)
