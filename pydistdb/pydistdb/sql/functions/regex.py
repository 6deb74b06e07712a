r"""POSIX advanced regular expressions, rewritten for Python's engine.

Most of the syntax is common; what differs is rewritten: ``$`` (Python's also matches before a last newline), ``.`` (matches
newlines in Postgres unless told not to), ``\m \M \y``, character classes such as ``[[:alpha:]]``.

    >>> translate(r"^[[:digit:]]+\y$", "")
    '^[\\d]+\\b\\Z'

POSIX takes the longest of several alternatives, Python the first that fits.  Whether there is a match does not depend on
it; what ``a|ab`` matches does: regex_extent.py.  Flat alternatives of plain words are sorted longest first here.

Compiled expressions are kept, up to ``MOST_COMPILED`` of them.

Source: PostgreSQL 15 manual, 9.7.3.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.regex_extent import Longest, Spanning
from pydistdb.sql.functions.regex_linear import Expression

MOST_COMPILED = 512
MOST_LENGTH = 100_000

_CLASSES = {
    "alnum": r"^\W_",
    "alpha": r"^\W\d_",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": r"\d",
    "graph": r"!-~\x80-\U0010ffff",
    "print": r" -~\x80-\U0010ffff",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "word": r"\w",
    "xdigit": r"0-9A-Fa-f",
}
# Classes whose Python spelling is a negation cannot stand among others: these are their ranges for ASCII and beyond.
_CLASSES_INSIDE = _CLASSES | {
    "alnum": r"0-9A-Za-z\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\U0010ffff",
    "alpha": r"A-Za-z\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\U0010ffff",
    "lower": r"a-z\xb5\xdf-\xf6\xf8-\xff",
    "upper": r"A-Z\xc0-\xd6\xd8-\xde",
}
_ESCAPES = {
    "m": r"\b(?=\w)",
    "M": r"\b(?<=\w)",
    "y": r"\b",
    "Y": r"\B",
    "A": r"\A",
    "Z": r"\Z",
    "a": r"\x07",
    "b": r"\x08",
    "B": r"\\",
    "e": r"\x1b",
    "f": r"\f",
    "n": r"\n",
    "r": r"\r",
    "t": r"\t",
    "v": r"\v",
    "0": r"\x00",
}


MOST_CODE = 0x10FFFF


def invalid(why: str) -> DatabaseError:
    return DatabaseError.of("2201B", f"invalid regular expression: {why}")


class _Translator:
    """``lazy``: every repetition becomes a non-greedy one."""

    def __init__(self, pattern: str, options: str, lazy: bool = False) -> None:
        self.pattern = pattern
        self.position = 0
        self.newline_sensitive = "n" in options or "m" in options
        self.partly_sensitive = "p" in options
        self.weird = "w" in options
        self.groups = 0
        self.depth = 0
        self.lazy = lazy
        self.has_choice = False
        self.preferences: list[list[bool | None]] = [[None]]
        """Of the groups open, for each branch: whether it prefers the shortest match, if anything in it says so."""
        self.preference: bool | None = None
        """Of what stands right before."""
        self.looking: list[int] = []
        """Depths of the lookarounds open: what stands in them is neither captured nor referred back to."""

    def run(self) -> str:
        parts: list[str] = []
        quantifiable = False
        pattern = self.pattern
        while self.position < len(pattern):
            character = pattern[self.position]
            if character not in "*+?{)":
                self.settle()
            match character:
                case "\\":
                    parts.append(self.escape())
                    quantifiable = True
                    continue
                case "[":
                    parts.append(self.bracket())
                    quantifiable = True
                    continue
                case "(":
                    parts.append(self.open_group())
                    quantifiable = False
                    continue
                case ")":
                    if self.depth == 0:
                        raise invalid("parentheses () not balanced")
                    preference = self.close_preferences()
                    if self.looking and self.looking[-1] == self.depth:
                        self.looking.pop()
                        preference = None
                    self.preference = preference
                    self.depth -= 1
                    parts.append(")")
                    quantifiable = True
                case "$":
                    parts.append("$" if self.newline_sensitive or self.weird else r"\Z")
                    quantifiable = False
                case "^":
                    parts.append("^")
                    quantifiable = False
                case "|":
                    self.has_choice = True
                    self.preferences[-1].append(None)
                    parts.append("|")
                    quantifiable = False
                case "*" | "+" | "?" | "{":
                    if character == "{" and not pattern[self.position + 1 : self.position + 2].isdigit():
                        # A brace that no digit follows is an ordinary character.
                        parts.append(r"\{")
                        quantifiable = True
                    else:
                        if not quantifiable:
                            raise invalid("quantifier operand invalid")
                        parts.append(self.quantifier())
                        quantifiable = False
                        continue
                case ".":
                    parts.append("[^\n]" if self.newline_sensitive or self.partly_sensitive else ".")
                    quantifiable = True
                case _:
                    parts.append(re.escape(character) if character in "}#&~ -\n\t" else character)
                    quantifiable = True
            self.position += 1
        if self.depth:
            raise invalid("parentheses () not balanced")
        self.preference = self.close_preferences()
        return _longest_first("".join(parts))

    def settle(self) -> None:
        """What stands right before is not repeated: it decides what its branch prefers, if that is open still."""
        branches = self.preferences[-1]
        if branches[-1] is None:
            branches[-1] = self.preference
        self.preference = None

    def close_preferences(self) -> bool | None:
        """What the group (or the whole) prefers: alternatives are always greedy."""
        self.settle()
        branches = self.preferences.pop()
        return branches[0] if len(branches) == 1 else False

    def quantifier(self) -> str:
        match = re.compile(r"[*+?]|\{(\d+)(?:,(\d*))?\}").match(self.pattern, self.position)
        if match is None:
            balanced = "}" in self.pattern[self.position :]
            raise invalid("invalid repetition count(s)" if balanced else "braces {} not balanced")
        least, most = match[1], match[2]
        if least and (int(least) > 255 or (most and (int(most) > 255 or int(most) < int(least)))):
            raise invalid("invalid repetition count(s)")
        self.position = match.end()
        text = match[0]
        is_exact = text[0] == "{" and "," not in text
        shortest = self.pattern[self.position : self.position + 1] == "?"
        if shortest:
            self.position += 1
        if not is_exact:
            self.preference = shortest
        return text + "?" if shortest or (self.lazy and not is_exact) else text

    def open_group(self) -> str:
        pattern = self.pattern
        self.position += 1
        if pattern[self.position : self.position + 1] != "?":
            self.depth += 1
            self.preferences.append([None])
            if self.looking:
                return "(?:"
            self.groups += 1
            return "("
        for prefix in ("?:", "?=", "?!", "?<=", "?<!"):
            if pattern.startswith(prefix, self.position):
                self.position += len(prefix)
                self.depth += 1
                self.preferences.append([None])
                if prefix != "?:":
                    self.looking.append(self.depth)
                return "(" + prefix
        if pattern.startswith("?#", self.position):
            end = pattern.find(")", self.position)
            self.position = end + 1 if end >= 0 else len(pattern)
            return ""
        raise invalid("quantifier operand invalid")

    def escape(self) -> str:
        pattern = self.pattern
        if self.position + 1 >= len(pattern):
            raise invalid("invalid escape \\ sequence")
        character = pattern[self.position + 1]
        self.position += 2
        if character in "dDsSwW":
            return "\\" + character
        if character in "uUx":
            digits = {"u": 4, "U": 8, "x": 255}[character]
            match = re.compile(f"[0-9a-fA-F]{{1,{digits}}}").match(pattern, self.position)
            if match is None or (character != "x" and len(match[0]) != digits):
                raise invalid("invalid escape \\ sequence")
            self.position = match.end()
            code = int(match[0], 16)
            if code > MOST_CODE:
                raise invalid("invalid escape \\ sequence")
            return re.escape(chr(code))
        if character in "123456789":
            if int(character) > self.groups or self.looking:
                raise invalid("invalid backreference number")
            return f"(?:\\{character})"
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character.isascii() and character.isalnum():
            raise invalid("invalid escape \\ sequence")
        return re.escape(character)

    def bracket(self) -> str:
        pattern = self.pattern
        for special, replacement in (("[[:<:]]", r"\b(?=\w)"), ("[[:>:]]", r"\b(?<=\w)")):
            if pattern.startswith(special, self.position):
                self.position += len(special)
                return replacement
        self.position += 1
        negated = pattern[self.position : self.position + 1] == "^"
        if negated:
            self.position += 1
        members: list[str] = []
        first = True
        while True:
            if self.position >= len(pattern):
                raise invalid("brackets [] not balanced")
            character = pattern[self.position]
            if character == "]" and not first:
                self.position += 1
                break
            first = False
            members.append(self.bracket_member())
        inside = "".join(members)
        if negated and (self.newline_sensitive or self.partly_sensitive):
            inside += r"\n"
        return f"[{'^' if negated else ''}{inside}]"

    def bracket_member(self) -> str:
        pattern = self.pattern
        for opening, closing in (("[:", ":]"), ("[.", ".]"), ("[=", "=]")):
            if pattern.startswith(opening, self.position):
                end = pattern.find(closing, self.position + 2)
                if end < 0:
                    raise invalid("brackets [] not balanced")
                name = pattern[self.position + 2 : end]
                self.position = end + 2
                if opening == "[:":
                    if name not in _CLASSES_INSIDE:
                        raise invalid("invalid character class")
                    return _CLASSES_INSIDE[name]
                if len(name) != 1:
                    raise invalid("invalid collating element")
                return re.escape(name)
        low = self.bracket_character()
        following = pattern[self.position : self.position + 2]
        if len(following) == 2 and following[0] == "-" and following[1] != "]" and len(low) < 11:
            self.position += 1
            high = self.bracket_character()
            if low.startswith("\\") and low[1:2] in ("d", "w", "s"):
                raise invalid("invalid character range")
            return f"{low}-{high}"
        return low

    def bracket_character(self) -> str:
        character = self.pattern[self.position]
        if character == "\\":
            if self.pattern[self.position + 1 : self.position + 2] in tuple("dws"):
                self.position += 2
                return "\\" + self.pattern[self.position - 1]
            return self.escape()
        self.position += 1
        return "\\" + character if character in r"[]^-&~|\#" else character


_ONLY_WORDS = re.compile(r"[\w|]+")
_FLAT_WORDS = re.compile(r"(?<![\\?])\((\?:)?([\w.]+(?:\|[\w.]+)+)\)|\A([\w.]+(?:\|[\w.]+)+)\Z")


def _longest_first(pattern: str) -> str:
    """Sort alternatives that are plain words (with dots in them) so that none hides a longer one that begins with it."""

    def reorder(match: re.Match[str]) -> str:
        words = sorted((match[2] or match[3]).split("|"), key=len, reverse=True)
        joined = "|".join(words)
        return joined if match[3] else f"({match[1] or ''}{joined})"

    return _FLAT_WORDS.sub(reorder, pattern)


def translate(pattern: str, options: str) -> str:
    return _Translator(pattern, options).run()


def _expression(pattern: str, options: str, flags: int) -> Expression | Spanning:
    translator = _Translator(pattern, options)
    source = translator.run()
    expression = Expression(source, flags)
    if translator.preference:
        shortest = _Translator(pattern, options, lazy=True).run()
        return expression if shortest == source else Spanning(expression, Expression(shortest, flags))
    if translator.has_choice and not _ONLY_WORDS.fullmatch(pattern):
        return Spanning(expression, Longest(source, flags))
    return expression


_OPTIONS = frozenset("bceimnpqstwx")


def check_options(options: str) -> None:
    for option in options:
        if option not in _OPTIONS:
            raise DatabaseError.of("22023", f'invalid regular expression option: "{option}"')


@lru_cache(maxsize=MOST_COMPILED)
def compile_regex(pattern: str, options: str = "") -> Expression | Spanning:
    """Compile a regular expression with option letters (no g)."""
    check_options(options)
    if len(pattern) > MOST_LENGTH:
        raise invalid("regular expression is too complex")
    if pattern.startswith("***="):
        pattern, options = pattern[4:], options + "q"
    elif pattern.startswith("***:"):
        pattern = pattern[4:]
    embedded = re.match(r"\(\?([a-z]+)\)", pattern)
    if embedded is not None and "q" not in options:
        check_options(embedded[1])
        options, pattern = options + embedded[1], pattern[embedded.end() :]
    if "x" in options:
        pattern = re.sub(r"(?<!\\)\s+|(?<!\\)#.*", "", pattern)
    flags = re.DOTALL
    # The last of i and c wins.
    if options.rfind("i") > options.rfind("c"):
        flags |= re.IGNORECASE
    if "n" in options or "m" in options or "w" in options:
        flags |= re.MULTILINE
    try:
        return Expression(re.escape(pattern), flags) if "q" in options else _expression(pattern, options, flags)
    except RecursionError:
        raise invalid("regular expression is too complex") from None
    except (re.error, OverflowError) as error:
        raise invalid(_reason(str(error))) from None


def _reason(message: str) -> str:
    if "character range" in message:
        return "invalid character range"
    if "parenthes" in message or "subpattern" in message:
        return "parentheses () not balanced"
    if "repeat" in message:
        return "quantifier operand invalid"
    return message.partition(" at position")[0]
