r"""The type jsonpath: a path's text to a tree, and the tree to the text that is stored and shown.

A path is a chain: something to start from, and accessors that each take what the one before gave::

    $.a[*] ? (@ > 1)      (root) (key a) (each) (filter (> (current) 1))       shown as  $."a"[*]?(@ > 1)

Every ``Node`` holds the next one of its chain.  Operators are nodes too, whose operands are chains.  The parser is a
descent by precedence: ``||`` below ``&&`` below comparisons below ``+ -`` below ``* / %`` below signs.

Source: PostgreSQL 15 manual, 9.16.2; jsonpath_gram.y, jsonpath_scan.l, jsonpath.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Any

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.types import numeric
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.text import check_text, decode_text

MOST_DEPTH = 100
MOST_PARSED = 1024
LAST_LEVEL = 4294967295
"""``last`` in ``**{…}``."""


PATTERN_CHECKS: list[Callable[[str, str], object]] = []
"""What raises if a pattern is wrong (functions/json_path.py knows how regular expressions are compiled)."""


@dataclass(frozen=True, slots=True)
class Node:
    """``kind`` is an operator as written, a method's name, or one of: root current last null bool number string variable
    key any_key each index any filter not is_unknown exists starts_with like_regex plus minus."""

    kind: str
    value: Any = None
    arguments: tuple[Node, ...] = ()
    next: Node | None = None


@dataclass(frozen=True, slots=True)
class Path:
    root: Node
    lax: bool


COMPARISONS = frozenset({"==", "<>", "<", "<=", ">", ">="})
METHODS = frozenset({"abs", "size", "type", "floor", "double", "ceiling", "keyvalue", "datetime"})
_PRIORITIES = {"||": 0, "&&": 1, "+": 3, "-": 3, "*": 4, "/": 4, "%": 4, "plus": 5, "minus": 5, "starts_with": 2}
_TOKEN = re.compile(
    r"""[ \t\n\r\f]*(?:/\*.*?\*/[ \t\n\r\f]*)*(?:
    (?P<number>(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<variable>\$(?:"(?:[^"\\]|\\.)*"|[^\s?%$.\[\]{}()|&!=<>@\#,*:\-+/\\"]+))
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<operator>&&|\|\||\*\*|==|<>|!=|<=|>=|[?%$.\[\]{}()!=<>@,*\-+/])
    |(?P<word>(?:[^\s?%$.\[\]{}()|&!=<>@\#,*:\-+/"\\]|\\.)+)
    |(?P<end>\Z)
    |(?P<other>.))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        return chr(int(code, 16)) if code else _LETTERS.get(found[4], found[4])

    result = _ESCAPE.sub(character, text) if "\\" in text else text
    if any("\ud800" <= each <= "\udfff" for each in result):
        result = result.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "\0" in result:
        raise DatabaseError.of(
            "22P05", "unsupported Unicode escape sequence", detail="\\u0000 cannot be converted to text."
        )
    return result


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self.kind = self.token = ""
        self.depth = 0
        self.filters = self.subscripts = 0
        self.advance()

    # ------------------------------------------------------------------------------------------ tokens

    def advance(self) -> str:
        """Go to the next token; returns the one before."""
        before = self.token
        found = _TOKEN.match(self.text, self.end)
        assert found is not None
        self.kind = found.lastgroup or ""
        self.token = found[self.kind]
        self.end = found.end()
        follows = self.text[self.end : self.end + 1]
        if self.kind == "number" and (follows.isalnum() or follows == "_"):
            raise InvalidSyntax(
                f'trailing junk after numeric literal at or near "{self.token}{follows}" of jsonpath input'
            )
        return before

    def is_operator(self, *names: str) -> bool:
        return self.kind == "operator" and self.token in names

    def is_word(self, name: str) -> bool:
        return self.kind == "word" and self.token.lower() == name

    def fail(self) -> DatabaseError:
        if self.kind == "end":
            return InvalidSyntax("syntax error at end of jsonpath input")
        return InvalidSyntax(f'syntax error at or near "{self.token}" of jsonpath input')

    def expect(self, operator: str) -> None:
        if not self.is_operator(operator):
            raise self.fail()
        self.advance()

    def expect_word(self, word: str) -> None:
        if not self.is_word(word):
            raise self.fail()
        self.advance()

    # ------------------------------------------------------------------------------------------ expressions

    def path(self) -> Path:
        lax = True
        if self.is_word("strict") or self.is_word("lax"):
            lax = self.advance().lower() == "lax"
        root = self.disjunction()
        if self.kind != "end":
            raise self.fail()
        return Path(root, lax)

    def nested(self) -> None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise DatabaseError.of("54001", "stack depth limit exceeded")

    def disjunction(self) -> Node:
        self.nested()
        left = self.conjunction()
        while self.is_operator("||"):
            self.advance()
            left = Node("||", None, (self.predicate(left), self.predicate(self.conjunction())))
        self.depth -= 1
        return left

    def conjunction(self) -> Node:
        left = self.comparison()
        while self.is_operator("&&"):
            self.advance()
            left = Node("&&", None, (self.predicate(left), self.predicate(self.comparison())))
        return left

    def predicate(self, node: Node) -> Node:
        if not is_predicate(node):
            raise self.fail()
        return node

    def comparison(self) -> Node:
        if self.is_operator("!"):
            self.advance()
            return Node("not", None, (self.delimited(),))
        if self.is_word("exists"):
            return self.delimited()
        left = self.sum()
        if is_predicate(left):
            return left
        if self.is_operator("==", "=", "!=", "<>", "<", "<=", ">", ">="):
            operator = {"=": "==", "!=": "<>"}.get(self.token, self.token)
            self.advance()
            right = self.sum()
            if is_predicate(right):
                raise self.fail()
            return Node(operator, None, (left, right))
        if self.is_word("starts"):
            self.advance()
            self.expect_word("with")
            if self.kind not in ("string", "variable"):
                raise self.fail()
            return Node("starts_with", None, (left, self.primary()))
        if self.is_word("like_regex"):
            return self.like_regex(left)
        return left

    def like_regex(self, left: Node) -> Node:
        self.advance()
        if self.kind != "string":
            raise self.fail()
        pattern = _unescaped(self.advance()[1:-1])
        flags = ""
        if self.is_word("flag"):
            self.advance()
            if self.kind != "string":
                raise self.fail()
            flags = _unescaped(self.advance()[1:-1])
            for flag in flags:
                if flag not in "ismxq":
                    raise InvalidSyntax(
                        "invalid input syntax for type jsonpath",
                        detail=f'Unrecognized flag character "{flag}" in LIKE_REGEX predicate.',
                    )
            if "x" in flags and "q" not in flags:
                raise FeatureNotSupported('XQuery "x" flag (expanded regular expressions) is not implemented')
        flags = "".join(flag for flag in "ismxq" if flag in flags)
        for check in PATTERN_CHECKS:
            check(pattern, flags)
        return Node("like_regex", (pattern, flags), (left,))

    def delimited(self) -> Node:
        """``exists (expr)`` or ``(predicate)``."""
        if self.is_word("exists"):
            self.advance()
            self.expect("(")
            argument = self.disjunction()
            if is_predicate(argument):
                raise self.fail()
            self.expect(")")
            return Node("exists", None, (argument,))
        self.expect("(")
        argument = self.predicate(self.disjunction())
        self.expect(")")
        return argument

    def sum(self) -> Node:
        left = self.product()
        while self.is_operator("+", "-") and not is_predicate(left):
            operator = self.advance()
            left = Node(operator, None, (left, self.product()))
        return left

    def product(self) -> Node:
        left = self.signed()
        while self.is_operator("*", "/", "%") and not is_predicate(left):
            operator = self.advance()
            left = Node(operator, None, (left, self.signed()))
        return left

    def signed(self) -> Node:
        if not self.is_operator("+", "-"):
            return self.accessors(self.primary())
        self.nested()
        operator = self.advance()
        argument = self.signed()
        self.depth -= 1
        if is_predicate(argument):
            raise self.fail()
        if argument.kind == "number" and argument.next is None:
            return argument if operator == "+" else Node("number", numeric.negate(argument.value))
        return Node("plus" if operator == "+" else "minus", None, (argument,))

    def primary(self) -> Node:
        match self.kind:
            case "number":
                return Node("number", numeric.parse(self.advance(), -1, None))
            case "string":
                return Node("string", _unescaped(self.advance()[1:-1]))
            case "variable":
                name = self.advance()[1:]
                return Node("variable", _unescaped(name[1:-1] if name.startswith('"') else name))
            case "word" if self.token in ("true", "false"):
                return Node("bool", self.advance() == "true")
            case "word" if self.token == "null":
                self.advance()
                return Node("null")
            case "word" if self.is_word("last"):
                if not self.subscripts:
                    raise InvalidSyntax("LAST is allowed only in array subscripts")
                self.advance()
                return Node("last")
        if self.is_operator("$"):
            self.advance()
            return Node("root")
        if self.is_operator("@"):
            if not self.filters:
                raise InvalidSyntax("@ is not allowed in root expressions")
            self.advance()
            return Node("current")
        if not self.is_operator("("):
            raise self.fail()
        self.advance()
        inner = self.disjunction()
        self.expect(")")
        if is_predicate(inner) and self.is_word("is"):
            self.advance()
            self.expect_word("unknown")
            return Node("is_unknown", None, (inner,))
        return inner

    # ------------------------------------------------------------------------------------------ accessors

    def accessors(self, start: Node) -> Node:
        """The chain that starts with ``start``."""
        found: list[Node] = []
        while True:
            if self.is_operator("."):
                self.advance()
                found.append(self.member())
            elif self.is_operator("["):
                found.append(self.array_accessor())
            elif self.is_operator("?"):
                self.advance()
                self.expect("(")
                self.filters += 1
                condition = self.predicate(self.disjunction())
                self.filters -= 1
                self.expect(")")
                found.append(Node("filter", None, (condition,)))
            else:
                return _chained(start, found)

    def member(self) -> Node:
        if self.is_operator("*"):
            self.advance()
            return Node("any_key")
        if self.is_operator("**"):
            self.advance()
            return self.levels()
        if self.kind == "string":
            return Node("key", _unescaped(self.advance()[1:-1]))
        if self.kind not in ("word", "number") or (self.kind == "number" and not self.token.isdigit()):
            raise self.fail()
        name = _unescaped(self.advance())
        if self.is_operator("(") and name.lower() in METHODS:
            self.advance()
            template = None
            if name.lower() == "datetime" and self.kind == "string":
                template = _unescaped(self.advance()[1:-1])
            self.expect(")")
            return Node(name.lower(), template)
        return Node("key", name)

    def levels(self) -> Node:
        first, last = 0, LAST_LEVEL
        if self.is_operator("{"):
            self.advance()
            first = last = self.level()
            if self.is_word("to"):
                self.advance()
                last = self.level()
            self.expect("}")
        return Node("any", (first, last))

    def level(self) -> int:
        if self.is_word("last"):
            self.advance()
            return LAST_LEVEL
        if self.kind != "number" or not self.token.isdigit():
            raise self.fail()
        return int(self.advance())

    def array_accessor(self) -> Node:
        self.advance()
        if self.is_operator("*"):
            self.advance()
            self.expect("]")
            return Node("each")
        self.subscripts += 1
        items: list[Node] = []
        while True:
            start = self.operand()
            if self.is_word("to"):
                self.advance()
                items.append(Node("range", None, (start, self.operand())))
            else:
                items.append(Node("range", None, (start,)))
            if not self.is_operator(","):
                break
            self.advance()
        self.subscripts -= 1
        self.expect("]")
        return Node("index", None, tuple(items))

    def operand(self) -> Node:
        node = self.disjunction()
        if is_predicate(node):
            raise self.fail()
        return node


def is_predicate(node: Node) -> bool:
    """Whether a node is true, false or unknown, rather than a sequence of items."""
    kinds = ("||", "&&", "not", "is_unknown", "exists", "starts_with", "like_regex")
    return node.next is None and (node.kind in COMPARISONS or node.kind in kinds)


def _chained(start: Node, accessors: list[Node]) -> Node:
    if not accessors:
        return start
    following: Node | None = None
    for node in reversed(accessors):
        following = replace(node, next=following)
    return _appended(start, following)


def _appended(node: Node, following: Node | None) -> Node:
    return replace(node, next=following if node.next is None else _appended(node.next, following))


@lru_cache(maxsize=MOST_PARSED)
def parse_path(text: str) -> Path:
    """The tree of a path; raises 42601 for what is none."""
    if not text:
        raise DatabaseError.of("22P02", 'invalid input syntax for type jsonpath: ""')
    try:
        return _Parser(text).path()
    except RecursionError:
        raise DatabaseError.of("54001", "stack depth limit exceeded") from None


# ------------------------------------------------------------------------------------------------ text


def _priority(node: Node) -> int:
    return 2 if node.kind in COMPARISONS else _PRIORITIES.get(node.kind, 6)


def _shown(node: Node, inside: bool, brackets: bool) -> str:
    """``inside``: behind another node of its chain; ``brackets``: around an operator."""
    text = _head(node, inside, brackets)
    return text if node.next is None else text + _shown(node.next, True, True)


def _head(node: Node, inside: bool, brackets: bool) -> str:
    dot = "." if inside else ""

    def operand(argument: Node) -> str:
        return _shown(argument, False, _priority(argument) <= _priority(node))

    match node.kind:
        case "key":
            return dot + quote(node.value)
        case "string":
            return quote(node.value)
        case "variable":
            return "$" + quote(node.value)
        case "number":
            text = numeric.format_numeric(node.value)
            return f"({text})" if node.next is not None else text
        case "bool":
            return "true" if node.value else "false"
        case "filter":
            return f"?({_shown(node.arguments[0], False, False)})"
        case "not":
            return f"!({_shown(node.arguments[0], False, False)})"
        case "is_unknown":
            return f"({_shown(node.arguments[0], False, False)}) is unknown"
        case "exists":
            return f"exists ({_shown(node.arguments[0], False, False)})"
        case "any_key":
            return dot + "*"
        case "index":
            return f"[{','.join(_range(item) for item in node.arguments)}]"
        case "any":
            return dot + _levels(*node.value)
        case "plus" | "minus":
            text = ("+" if node.kind == "plus" else "-") + operand(node.arguments[0])
        case "like_regex":
            pattern, flags = node.value
            text = f"{operand(node.arguments[0])} like_regex {quote(pattern)}" + (f' flag "{flags}"' if flags else "")
        case kind if node.arguments:
            word = "!=" if kind == "<>" else kind.replace("_", " ")
            text = f"{operand(node.arguments[0])} {word} {operand(node.arguments[1])}"
        case kind if kind in METHODS:
            return f".{kind}({'' if node.value is None else quote(node.value)})"
        case kind:
            return {"root": "$", "current": "@", "each": "[*]"}.get(kind, kind)
    return f"({text})" if brackets else text


def _range(node: Node) -> str:
    return " to ".join(_shown(each, False, False) for each in node.arguments)


def _levels(first: int, last: int) -> str:
    if first == 0 and last == LAST_LEVEL:
        return "**"
    words = ["last" if level == LAST_LEVEL else str(level) for level in (first, last)]
    return f"**{{{words[0]}}}" if first == last else f"**{{{words[0]} to {words[1]}}}"


def canonical_path(text: str) -> str:
    path = parse_path(text)
    return ("" if path.lax else "strict ") + _shown(path.root, False, True)


def _parse(text: str, modifier: int, context: EvalContext | None) -> str:
    return canonical_path(check_text(text))


def _format(value: str, context: EvalContext | None) -> str:
    return value


def _decode(data: bytes) -> str:
    if data[:1] != b"\1":
        raise DatabaseError.of("XX000", f"unsupported jsonpath version number: {data[0] if data else 0}")
    return canonical_path(decode_text(data[1:]))


IO = {"jsonpath": TypeIO(_parse, _format, _decode, lambda value: b"\1" + value.encode(), None)}
