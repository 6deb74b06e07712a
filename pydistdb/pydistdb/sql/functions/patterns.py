r"""LIKE, ILIKE, SIMILAR TO and the functions with regular expressions.

A LIKE pattern becomes a predicate once and is kept: patterns without ``_`` and with ``%`` only at the ends are plain
string tests, others a regular expression.

    >>> like("banana", "%an%"), regexp_replace("foobar", "o+", "[\\&]", "")
    (True, 'f[oo]bar')

Source: PostgreSQL 15 manual, 9.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.functions.limits import check_length
from pydistdb.sql.functions.regex import compile_regex
from pydistdb.sql.types.arrays import PgArray

MOST_PATTERNS = 1024
MOST_TRIES = 20_000
"""Of cutting a text into the three parts of a SIMILAR pattern."""

# ------------------------------------------------------------------------------------------------ LIKE


def _tokens(pattern: str) -> list[tuple[str, bool]]:
    """Split a pattern into characters and wildcards (True)."""
    tokens: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            tokens.append((next(characters), False))
        else:
            tokens.append((character, character in "%_"))
    return tokens


def _unfinished(pattern: str, fold_case: bool) -> Callable[[str], bool]:
    """A pattern that ends with an escape character: wrong for a text that has something left when it comes to that."""
    reaches = like_predicate(pattern + "_%", fold_case)

    def predicate(text: str) -> bool:
        if reaches(text):
            raise DatabaseError.of("22025", "LIKE pattern must not end with escape character")
        return False

    return predicate


@lru_cache(maxsize=MOST_PATTERNS)
def like_predicate(pattern: str, fold_case: bool) -> Callable[[str], bool]:
    if len(pattern) - len(pattern.rstrip("\\")) & 1:
        return _unfinished(pattern[:-1], fold_case)
    tokens = _tokens(pattern)
    if not fold_case and ("_", True) not in tokens:
        wildcards = [position for position, token in enumerate(tokens) if token == ("%", True)]
        word = "".join(character for character, special in tokens if not special)
        match wildcards:
            case []:
                return lambda text: text == word
            case [position] if position == len(tokens) - 1:
                return lambda text: text.startswith(word)
            case [0]:
                return lambda text: text.endswith(word)
            case [0, position] if position == len(tokens) - 1:
                return lambda text: word in text
    segments = [""]
    for character, special in tokens:
        if special and character == "%":
            segments.append("")
        else:
            segments[-1] += "." if special else re.escape(character)
    # A segment between two % has a fixed length, so its first place is as good as any: no way back is needed.
    source = segments[0] + "".join([f"(?>.*?{segment})" for segment in segments[1:-1] if segment])
    if len(segments) > 1:
        source += ".*" + segments[-1]
    compiled = re.compile(source, re.DOTALL | (re.IGNORECASE if fold_case else 0)).fullmatch
    return lambda text: compiled(text) is not None


def like(text: str, pattern: str) -> bool:
    return like_predicate(pattern, False)(text)


def not_like(text: str, pattern: str) -> bool:
    return not like_predicate(pattern, False)(text)


def ilike(text: str, pattern: str) -> bool:
    return like_predicate(pattern, True)(text)


def not_ilike(text: str, pattern: str) -> bool:
    return not like_predicate(pattern, True)(text)


def bytea_like(value: bytes, pattern: bytes) -> bool:
    return like(value.decode("latin-1"), pattern.decode("latin-1"))


for _type in ("text", "bpchar", "name"):
    define(f"{_type}like({_type},text)", like)
    define(f"{_type}nlike({_type},text)", not_like)
    define(f"{_type}iclike({_type},text)", ilike)
    define(f"{_type}icnlike({_type},text)", not_ilike)
for _type in ("text", "name"):
    define(f"like({_type},text)", like)
    define(f"notlike({_type},text)", not_like)
for _name in ("bytealike", "like"):
    define(f"{_name}(bytea,bytea)", bytea_like)
for _name in ("byteanlike", "notlike"):
    define(f"{_name}(bytea,bytea)", lambda value, pattern: not bytea_like(value, pattern))


def _bad_escape() -> DatabaseError:
    return DatabaseError.of("22025", "invalid escape string", hint="Escape string must be empty or one character.")


@implements("like_escape(text,text)")
def like_escape(pattern: str, escape: str) -> str:
    """Rewrite a pattern with another escape character for the usual one."""
    if len(escape) > 1:
        raise _bad_escape()
    if not escape:
        return pattern.replace("\\", "\\\\")
    if escape == "\\":
        return pattern
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            parts.append("\\" + next(characters, ""))
        else:
            parts.append("\\\\" if character == "\\" else character)
    return "".join(parts)


@implements("like_escape(bytea,bytea)")
def bytea_like_escape(pattern: bytes, escape: bytes) -> bytes:
    return like_escape(pattern.decode("latin-1"), escape.decode("latin-1")).encode("latin-1")


# ------------------------------------------------------------------------------------------------ SIMILAR TO


@implements("similar_to_escape(text,text)")
def similar_to_escape(pattern: str, escape: str) -> str:
    """Rewrite an SQL pattern as a regular expression (SIMILAR TO is bound to ``~``)."""
    if len(escape) > 1:
        raise _bad_escape()
    parts = ["^(?:"]
    position, depth, opened, separators = 0, 0, 0, 0
    # ``depth``: of square brackets, with [:alpha:] inside of others.  ``opened``: 1 after "[", 2 after "[^", where "]" is a
    # character like any other.
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == escape:
            following = pattern[position : position + 1]
            position += 1
            opened = 3
            if following == '"' and not depth:
                # The markers around the part that substring() returns.
                separators += 1
                if separators > 2:
                    raise DatabaseError.of(
                        "2200C", "SQL regular expression may not contain more than two escape-double-quote separators"
                    )
                parts.append("){1,1}?(" if separators == 1 else "){1,1}(?:")
            else:
                # An escape character at the very end escapes nothing.
                parts.append("\\" + following if following else "")
        elif depth:
            parts.append("\\\\" if character == "\\" else character)
            if character == "]" and opened > 2:
                depth -= 1
            elif character == "[":
                depth += 1
                opened = 3
            else:
                opened = opened + 1 if character == "^" else 3
        elif character == "%":
            parts.append(".*")
        elif character == "_":
            parts.append(".")
        elif character == "(":
            parts.append("(?:")
        elif character in "\\.^$":
            parts.append("\\" + character)
        else:
            parts.append(character)
            if character == "[":
                depth = opened = 1
    parts.append(")$")
    return "".join(parts)


define("similar_to_escape(text)", lambda pattern: similar_to_escape(pattern, "\\"))
define(
    "similar_escape(text,text)",
    lambda pattern, escape: None if pattern is None else similar_to_escape(pattern, "\\" if escape is None else escape),
)


@implements("substring(text,text,text)")
def substring_similar(text: str, pattern: str, escape: str) -> str | None:
    parts = pattern.split(escape + '"') if escape else [pattern]
    if len(parts) != 3:
        return substring_regex(text, similar_to_escape(pattern, escape))
    before, wanted, after = (similar_to_escape(part, escape)[1:-1] for part in parts)
    if not compile_regex(f"^{before}{wanted}{after}$").matches(text):
        return None
    # What stands before and after takes as little as it can, and what is wanted has the rest.
    first, middle, last = (compile_regex(f"^{part}$") for part in (before, wanted, after))
    tries = 0
    for start in range(len(text) + 1):
        if first.search(text[:start]) is None:
            continue
        for end in range(len(text), start - 1, -1):
            tries += 1
            if tries > MOST_TRIES:
                raise DatabaseError.of("2201B", "invalid regular expression: regular expression is too complex")
            if last.search(text[end:]) is not None and middle.search(text[start:end]) is not None:
                return text[start:end]
    return None


# ------------------------------------------------------------------------------------------------ operators


def matches(text: str, pattern: str) -> bool:
    return compile_regex(pattern).matches(text)


def matches_ignoring_case(text: str, pattern: str) -> bool:
    return compile_regex(pattern, "i").matches(text)


for _type in ("text", "bpchar", "name"):
    define(f"{_type}regexeq({_type},text)", matches)
    define(f"{_type}regexne({_type},text)", lambda text, pattern: not matches(text, pattern))
    define(f"{_type}icregexeq({_type},text)", matches_ignoring_case)
    define(f"{_type}icregexne({_type},text)", lambda text, pattern: not matches_ignoring_case(text, pattern))

# ------------------------------------------------------------------------------------------------ functions


def _options(flags: str, function: str) -> tuple[str, bool]:
    """Separate the letter g; it is refused where ``function`` is named."""
    is_global = "g" in flags
    if is_global and function:
        hint = "Use the regexp_matches function instead." if function == "regexp_match" else None
        raise DatabaseError.of("22023", f'{function}() does not support the "global" option', hint=hint)
    return flags.replace("g", ""), is_global


def _groups(match: re.Match[str]) -> PgArray:
    return PgArray.of(match.groups() or (match[0],))


def _replacement(text: str) -> Callable[[re.Match[str]], str]:
    """Make a replacer from a text with ``\\1`` … ``\\9``, ``\\&`` and ``\\\\``."""
    if "\\" not in text:
        return lambda match: text
    pieces = re.split(r"(\\[1-9&\\])", text)

    def replace(match: re.Match[str]) -> str:
        parts: list[str] = []
        for piece in pieces:
            if len(piece) == 2 and piece[0] == "\\":
                if piece[1] == "&":
                    parts.append(match[0])
                elif piece[1] == "\\":
                    parts.append("\\")
                elif int(piece[1]) <= (match.re.groups):
                    parts.append(match[int(piece[1])] or "")
            else:
                parts.append(piece)
        return "".join(parts)

    return replace


def _bounded(replace: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
    """The same, until the replacements together are longer than a text may be."""
    length = 0

    def counted(match: re.Match[str]) -> str:
        nonlocal length
        text = replace(match)
        length += len(text)
        check_length(length)
        return text

    return counted


def regexp_replace(text: str, pattern: str, replacement: str, flags: str) -> str:
    if flags[:1].isdigit():
        raise DatabaseError.of(
            "22023",
            f'invalid regular expression option: "{flags[0]}"',
            hint="If you meant to use regexp_replace() with a start parameter, cast the fourth argument to integer "
            "explicitly.",
        )
    options, is_global = _options(flags, "")
    return compile_regex(pattern, options).sub(_bounded(_replacement(replacement)), text, count=0 if is_global else 1)


define("regexp_replace(text,text,text,text)", regexp_replace)
define("regexp_replace(text,text,text)", lambda text, pattern, new: regexp_replace(text, pattern, new, ""))


def _check_start(start: int) -> None:
    if start <= 0:
        raise DatabaseError.of("22023", f'invalid value for parameter "start": {start}')


def _check_occurrence(number: int) -> None:
    if number <= 0:
        raise DatabaseError.of("22023", f'invalid value for parameter "n": {number}')


@implements(
    "regexp_replace(text,text,text,int4)",
    "regexp_replace(text,text,text,int4,int4)",
    "regexp_replace(text,text,text,int4,int4,text)",
)
def regexp_replace_nth(text: str, pattern: str, replacement: str, start: int, number: int = 1, flags: str = "") -> str:
    _check_start(start)
    if number < 0:
        raise DatabaseError.of("22023", f'invalid value for parameter "n": {number}')
    compiled = compile_regex(pattern, _options(flags, "")[0])
    replace = _bounded(_replacement(replacement))
    parts: list[str] = []
    end = 0
    for count, match in enumerate(compiled.finditer(text, min(start - 1, len(text))), 1):
        if number in (0, count):
            parts.append(text[end : match.start()])
            parts.append(replace(match))
            end = match.end()
        if count == number:
            break
    return "".join(parts) + text[end:]


@implements("regexp_match(text,text)", "regexp_match(text,text,text)")
def regexp_match(text: str, pattern: str, flags: str = "") -> PgArray | None:
    match = compile_regex(pattern, _options(flags, "regexp_match")[0]).search(text)
    return None if match is None else _groups(match)


@implements("regexp_matches(text,text)", "regexp_matches(text,text,text)")
def regexp_matches(text: str, pattern: str, flags: str = "") -> Iterator[PgArray]:
    options, is_global = _options(flags, "")
    for match in compile_regex(pattern, options).finditer(text):
        yield _groups(match)
        if not is_global:
            return


def _split(text: str, pattern: str, flags: str, function: str) -> list[str]:
    """Split at matches; an empty match counts only between characters."""
    compiled = compile_regex(pattern, _options(flags, function)[0])
    parts: list[str] = []
    end = 0
    for match in compiled.finditer(text):
        if match.start() == match.end() and match.start() in (0, end, len(text)):
            continue
        parts.append(text[end : match.start()])
        end = match.end()
    parts.append(text[end:])
    return parts


@implements("regexp_split_to_array(text,text)", "regexp_split_to_array(text,text,text)")
def regexp_split_to_array(text: str, pattern: str, flags: str = "") -> PgArray:
    return PgArray.of(_split(text, pattern, flags, "regexp_split_to_array"))


@implements("regexp_split_to_table(text,text)", "regexp_split_to_table(text,text,text)")
def regexp_split_to_table(text: str, pattern: str, flags: str = "") -> Iterator[str]:
    yield from _split(text, pattern, flags, "regexp_split_to_table")


@implements("regexp_count(text,text)", "regexp_count(text,text,int4)", "regexp_count(text,text,int4,text)")
def regexp_count(text: str, pattern: str, start: int = 1, flags: str = "") -> int:
    _check_start(start)
    compiled = compile_regex(pattern, _options(flags, "regexp_count")[0])
    return sum(1 for _ in compiled.finditer(text, min(start - 1, len(text))))


@implements("regexp_like(text,text)", "regexp_like(text,text,text)")
def regexp_like(text: str, pattern: str, flags: str = "") -> bool:
    return compile_regex(pattern, _options(flags, "regexp_like")[0]).matches(text)


def _nth(text: str, pattern: str, start: int, number: int, flags: str, function: str) -> re.Match[str] | None:
    _check_start(start)
    _check_occurrence(number)
    compiled = compile_regex(pattern, _options(flags, function)[0])
    for count, match in enumerate(compiled.finditer(text, min(start - 1, len(text))), 1):
        if count == number:
            return match
    return None


@implements(
    "regexp_instr(text,text)",
    "regexp_instr(text,text,int4)",
    "regexp_instr(text,text,int4,int4)",
    "regexp_instr(text,text,int4,int4,int4)",
    "regexp_instr(text,text,int4,int4,int4,text)",
    "regexp_instr(text,text,int4,int4,int4,text,int4)",
)
def regexp_instr(
    text: str, pattern: str, start: int = 1, number: int = 1, end: int = 0, flags: str = "", group: int = 0
) -> int:
    if end not in (0, 1):
        raise DatabaseError.of("22023", f'invalid value for parameter "endoption": {end}')
    if group < 0:
        raise DatabaseError.of("22023", f'invalid value for parameter "subexpr": {group}')
    match = _nth(text, pattern, start, number, flags, "regexp_instr")
    if match is None or group > match.re.groups or match.start(group) < 0:
        return 0
    return (match.end(group) if end else match.start(group)) + 1


@implements(
    "regexp_substr(text,text)",
    "regexp_substr(text,text,int4)",
    "regexp_substr(text,text,int4,int4)",
    "regexp_substr(text,text,int4,int4,text)",
    "regexp_substr(text,text,int4,int4,text,int4)",
)
def regexp_substr(
    text: str, pattern: str, start: int = 1, number: int = 1, flags: str = "", group: int = 0
) -> str | None:
    if group < 0:
        raise DatabaseError.of("22023", f'invalid value for parameter "subexpr": {group}')
    match = _nth(text, pattern, start, number, flags, "regexp_substr")
    return None if match is None or group > match.re.groups else match[group]


@implements("substring(text,text)")
def substring_regex(text: str, pattern: str) -> str | None:
    match = compile_regex(pattern).search(text)
    if match is None:
        return None
    value = match[1] if match.re.groups else match[0]
    return None if value is None else str(value)
