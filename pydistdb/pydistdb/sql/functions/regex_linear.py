r"""How long a regular expression may take, and the same expression for RE2, whose time grows with the text alone.

Python's engine tries alternatives one by one: ``(a+)+b`` takes 2ⁿ steps on n a's, and nothing can interrupt it.  ``effort``
bounds the steps from the parsed expression: each unbounded repetition is a factor of the text's length, each choice a
factor of its number, and a repetition of something that can itself match in several ways is beyond all bounds.
``Expression`` has Python's engine match texts for which that is little, and RE2 the others:

    a.*b.*c       degree 3 (the start, and two repetitions)          up to 100 characters by Python's engine
    (a+)+b        beyond all bounds                                  always RE2
    (a+)+\1       RE2 has no references back                         refused

Both engines look for the same match (the first alternative that fits), so it does not show which one was at work.

Source: https://github.com/google/re2/wiki/Syntax; docs/decisions/005-two-regex-engines.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import re2

from pydistdb.sql.errors import DatabaseError

AFFORDABLE_BITS = 20
"""Python's engine may take about a million steps (10 ms) for one text."""
BEARABLE_BITS = 26
"""What it may take where RE2 cannot help."""
MANY_REPETITIONS = 50
"""From here on a bounded repetition counts as unbounded."""

_parser: Any = re._parser  # type: ignore[attr-defined]  # the module's own parse tree; there is no other way to it


class Effort(NamedTuple):
    """At most about length ** degree * 2 ** bits steps; ``varies``: the same part can match in several ways."""

    degree: float
    bits: float
    varies: bool


def effort(tree: Any) -> Effort:
    """The steps that matching at one position may take."""
    degree = bits = aside = 0.0
    varies = False
    for operator, argument in tree:
        match str(operator):
            case "BRANCH":
                parts = [effort(branch) for branch in argument[1]]
                degree += max(part.degree for part in parts)
                bits += max(part.bits for part in parts) + math.log2(len(parts))
                varies = True
            case "SUBPATTERN" | "ATOMIC_GROUP":
                part = effort(argument[-1] if isinstance(argument, tuple) else argument)
                degree, bits, varies = degree + part.degree, bits + part.bits, varies or part.varies
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, repeated = argument
                part = effort(repeated)
                if part.varies and most > 1:
                    return Effort(math.inf, 0.0, True)
                if most > MANY_REPETITIONS:
                    degree += 1
                else:
                    degree += part.degree
                    bits += part.bits + math.log2(most - least + 1)
                varies = varies or part.varies or most != least
            case "ASSERT" | "ASSERT_NOT":  # what is inside is tried once, whatever follows
                aside = max(aside, effort(argument[1]).degree)
    return Effort(max(degree, aside), bits, varies)


class NotLinear(Exception):
    """RE2 cannot do this."""


_CATEGORIES = {
    "CATEGORY_DIGIT": r"\p{Nd}",
    "CATEGORY_NOT_DIGIT": r"\P{Nd}",
    "CATEGORY_SPACE": r"\t-\r\x1c-\x20\x{85}\p{Z}",
    "CATEGORY_WORD": r"\p{L}\p{N}_",
}
_NEGATED = {"CATEGORY_NOT_SPACE": "CATEGORY_SPACE", "CATEGORY_NOT_WORD": "CATEGORY_WORD"}


class _Writer:
    """A parsed expression in RE2's syntax; letters and digits are Unicode's, as in Python."""

    def __init__(self, multiline: bool) -> None:
        self.multiline = multiline
        self.ascii_only = False
        """It holds a word boundary, which RE2 knows only between ASCII characters."""

    def sequence(self, tree: Any) -> str:
        return "".join([self.item(str(operator), argument) for operator, argument in tree])

    def item(self, operator: str, argument: Any) -> str:
        match operator:
            case "LITERAL":
                return _character(argument)
            case "NOT_LITERAL":
                return f"[^{_character(argument)}]"
            case "ANY":
                return "(?s:.)"
            case "IN":
                return self.members([(str(kind), value) for kind, value in argument])
            case "BRANCH":
                return f"(?:{'|'.join([self.sequence(branch) for branch in argument[1]])})"
            case "SUBPATTERN":
                inside = self.sequence(argument[-1])
                return f"(?:{inside})" if argument[0] is None else f"({inside})"
            case "MAX_REPEAT" | "MIN_REPEAT":
                return self.repetition(*argument) + ("?" if operator == "MIN_REPEAT" else "")
            case "AT":
                return self.place(str(argument))
        raise NotLinear(operator)

    def repetition(self, least: int, most: int, repeated: Any) -> str:
        unbounded = most == _parser.MAXREPEAT
        if max(least, 0 if unbounded else most) > 1_000:
            raise NotLinear("RE2 repeats at most 1000 times")
        return f"(?:{self.sequence(repeated)}){{{least},{'' if unbounded else most}}}"

    def place(self, where: str) -> str:
        match where:
            case "AT_BEGINNING":
                return "(?m:^)" if self.multiline else r"\A"
            case "AT_BEGINNING_STRING":
                return r"\A"
            case "AT_END" if self.multiline:
                return "(?m:$)"
            case "AT_END_STRING":
                return r"\z"
            case "AT_BOUNDARY" | "AT_NON_BOUNDARY":
                self.ascii_only = True
                return r"\b" if where == "AT_BOUNDARY" else r"\B"
        raise NotLinear(where)

    def members(self, members: list[tuple[str, Any]]) -> str:
        negated = members[0][0] == "NEGATE"
        if negated:
            members = members[1:]
        names = [str(value) if kind == "CATEGORY" else kind for kind, value in members]
        if negated and "CATEGORY_NOT_WORD" in names:  # [^\W_] and [^\W\d_]: letters and digits, and letters
            others = [member for member in members if str(member[1]) != "CATEGORY_NOT_WORD"]
            if others == [("LITERAL", ord("_"))]:
                return r"[\p{L}\p{N}]"
            if len(others) == 2 and "CATEGORY_DIGIT" in names and ("LITERAL", ord("_")) in others:
                return r"[\p{L}\p{Nl}\p{No}]"
        if len(names) == 1 and names[0] in _NEGATED:
            return f"[{'' if negated else '^'}{_CATEGORIES[_NEGATED[names[0]]]}]"
        outside = {name for name in names if name in _NEGATED}
        if outside and not negated:  # a class cannot hold the complement of another, an alternative can be it
            inside = [member for member in members if str(member[1]) not in outside]
            parts = [f"[^{_CATEGORIES[_NEGATED[name]]}]" for name in sorted(outside)]
            return f"(?:{'|'.join([*parts, self.members(inside)] if inside else parts)})"
        return f"[{'^' if negated else ''}{''.join([self.member(kind, value) for kind, value in members])}]"

    def member(self, kind: str, value: Any) -> str:
        match kind:
            case "LITERAL":
                return _character(value)
            case "RANGE":
                return f"{_character(value[0])}-{_character(value[1])}"
            case "CATEGORY" if str(value) in _CATEGORIES:
                return _CATEGORIES[str(value)]
        raise NotLinear(f"{kind} {value}")


def _character(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\x{{{code:x}}}"


class Expression:
    """A compiled regular expression.  Its methods are those of ``re.Pattern`` that SQL's functions use."""

    def __init__(self, source: str, flags: int) -> None:
        self.backtracking = re.compile(source, flags)
        tree = _parser.parse(source, flags)
        degree, bits, _ = effort(tree)
        degree += 1  # it is tried at every position
        self._affordable_length = _longest(degree, bits, AFFORDABLE_BITS)
        self._bearable_length = _longest(degree, bits, BEARABLE_BITS)
        self._tree: Any = tree
        self._flags = flags
        self._linear: Any = None
        self._is_compiled = False
        self._ascii_only = False

    def matches(self, text: str) -> bool:
        """Whether there is a match anywhere."""
        return Expression.search(self, text) is not None

    def within(self, text: str, first: int, last: int) -> re.Match[str] | None:
        """The match that takes just this part of the text."""
        engine = self.backtracking if last - first <= self._affordable_length else self._engine(text)
        found: re.Match[str] | None = engine.fullmatch(text, first, last)
        return found

    def search(self, text: str) -> re.Match[str] | None:
        if len(text) <= self._affordable_length:
            return self.backtracking.search(text)
        found: re.Match[str] | None = self._engine(text).search(text)
        return found

    def finditer(self, text: str, start: int = 0) -> Iterator[re.Match[str]]:
        found: Iterator[re.Match[str]] = self._engine(text).finditer(text, start)
        return found

    def sub(self, replacement: Callable[[re.Match[str]], str], text: str, count: int = 0) -> str:
        replaced: str = self._engine(text).sub(replacement, text, count=count)
        return replaced

    def _engine(self, text: str) -> Any:
        length = len(text)
        if length <= self._affordable_length:
            return self.backtracking
        if not self._is_compiled:
            self._linear, self._is_compiled = self.compile_linear(), True
        if self._linear is not None and self.linear_knows(text):
            return self._linear
        if length <= self._bearable_length:
            return self.backtracking
        raise DatabaseError.of(
            "2201B",
            "invalid regular expression: regular expression is too complex",
            detail=f"Matching it with a text of {length} characters could take too long.",
        )

    def linear_knows(self, text: str) -> bool:
        """Whether RE2's expression means the same for a text."""
        return not self._ascii_only or text.isascii()

    def compile_linear(self, longest: bool = False) -> Any:
        """The expression for RE2, None if it cannot do that; ``longest``: it finds the longest match, not the first that fits."""
        writer = _Writer(bool(self._flags & re.MULTILINE))
        options = re2.Options()
        options.log_errors = False
        options.case_sensitive = not self._flags & re.IGNORECASE
        options.longest_match = longest
        try:
            linear = re2.compile(writer.sequence(self._tree), options)
        except (NotLinear, re2.error):
            return None
        self._ascii_only = writer.ascii_only
        return linear


def _longest(degree: float, bits: float, limit_bits: int) -> int:
    """The longest text whose bound on steps is within the limit."""
    if bits >= limit_bits:
        return -1
    return int(2 ** ((limit_bits - bits) / degree)) - 1
