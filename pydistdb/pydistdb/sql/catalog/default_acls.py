"""What a new object gets by the default privileges of the role that makes it (default_privileges.py sets them)."""

from __future__ import annotations

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog.access import Access
from pydistdb.sql.catalog.acl import Acl

LETTERS = {"table": "r", "sequence": "S", "function": "f", "procedure": "f", "routine": "f", "type": "T", "schema": "n"}
"""pg_default_acl.defaclobjtype by the kind of object."""


def initial_acl(access: Access, kind: str, owner: int, schema: int) -> Acl | None:
    """The list of an object that ``owner`` is making in ``schema``; None for the built-in default."""
    entries = access.database.default_acls
    if not entries:
        return None
    letter = LETTERS[kind]
    everywhere, here = entries.get((owner, 0, letter)), entries.get((owner, schema, letter)) if schema else None
    if everywhere is None and here is None:
        return None
    built_in = acls.default_acl(kind, owner)
    result = built_in if everywhere is None else everywhere.items
    for item in () if here is None else here.items:
        result = acls.update(result, item, owner, access.has_privileges_of, grant=True)
    return None if set(result) == set(built_in) else result
