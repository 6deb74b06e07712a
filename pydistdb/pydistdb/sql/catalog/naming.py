"""Names that the system chooses: t_pkey, t_a_key, t_a_check, t_a_fkey, t_a_idx, t_a_seq, numbered where taken.

    >>> choose(["users", "email"], "key", {"users_email_key"}.__contains__)
    'users_email_key1'

Names are cut to 63 bytes, the longer part first, as Postgres cuts them (so the label at the end stays whole).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MOST_NAME_BYTES = 63


def clip(name: str, most_bytes: int = MOST_NAME_BYTES) -> str:
    """The name cut to ``most_bytes`` bytes of UTF-8, at a character's end."""
    return name.encode()[:most_bytes].decode(errors="ignore")


def join_columns(names: Sequence[str]) -> str:
    """Column names as one part of a name."""
    return clip("_".join(names))


def distinct_names(names: Sequence[str]) -> list[str]:
    """Column names with numbers behind those that came before."""
    seen: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in seen:
            number += 1
            candidate = f"{name}{number}"
        seen.append(candidate)
    return seen


def assemble(parts: Sequence[str], label: str) -> str:
    """``parts`` (one or two) and a label joined with underscores, cut to fit."""
    room = MOST_NAME_BYTES - len(label.encode()) - len(parts)
    sizes = [len(part.encode()) for part in parts]
    while sum(sizes) > room:
        longest = 0 if len(sizes) == 1 or sizes[0] > sizes[1] else 1
        sizes[longest] -= 1
    return "_".join([*(clip(part, size) for part, size in zip(parts, sizes, strict=True)), label])


def choose(parts: Sequence[str], label: str, is_taken: Callable[[str], bool]) -> str:
    """The first of parts_label, parts_label1, parts_label2, … that is free."""
    number = 0
    while True:
        name = assemble([part for part in parts if part], label + (str(number) if number else ""))
        if not is_taken(name):
            return name
        number += 1
