"""Access privilege lists: what they say, how GRANT and REVOKE change them, how they are written.

An ``Acl`` is a tuple of items; each says what one grantor has given one grantee (0 is PUBLIC), and which of that with the
grant option.  An object without a list of its own has ``default_acl``: everything for the owner, and for some kinds
something for PUBLIC.  The owner's grant options are implied, and need not stand in the list.  ::

    {alice=arwdDxt/alice,bob=r*w/alice}      bob may read and pass that on, and may write; alice said so

A grant option that is taken away takes along whatever its holder has granted with it (CASCADE), or is not taken away
(RESTRICT).  Nobody can give a grant option back to whom they have it from: otherwise two roles could keep each
other's privileges alive.

Source: PostgreSQL 15 manual, 5.7; acl.c for the rules of the list's changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pydistdb.sql.errors import DatabaseError, DependentObjectsStillExist

PUBLIC = 0
"""The grantee that stands for everybody."""

INSERT, SELECT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER = (1 << bit for bit in range(7))
EXECUTE, USAGE, CREATE, TEMPORARY, CONNECT, SET, ALTER_SYSTEM = (1 << bit for bit in range(7, 14))

LETTERS = "arwdDxtXUCTcsA"
"""The letter of each bit in the text of a list."""
WORDS = {
    "INSERT": INSERT,
    "SELECT": SELECT,
    "UPDATE": UPDATE,
    "DELETE": DELETE,
    "TRUNCATE": TRUNCATE,
    "REFERENCES": REFERENCES,
    "TRIGGER": TRIGGER,
    "EXECUTE": EXECUTE,
    "USAGE": USAGE,
    "CREATE": CREATE,
    "TEMPORARY": TEMPORARY,
    "TEMP": TEMPORARY,
    "CONNECT": CONNECT,
    "SET": SET,
    "ALTER SYSTEM": ALTER_SYSTEM,
}
NAMES = {bit: word for word, bit in WORDS.items() if word != "TEMP"}
"""The word of each bit, in the order of the bits."""

TABLE_RIGHTS = INSERT | SELECT | UPDATE | DELETE | TRUNCATE | REFERENCES | TRIGGER
RIGHTS: dict[str, int] = {
    "table": TABLE_RIGHTS,
    "column": INSERT | SELECT | UPDATE | REFERENCES,
    "sequence": USAGE | SELECT | UPDATE,
    "database": CREATE | TEMPORARY | CONNECT,
    "function": EXECUTE,
    "language": USAGE,
    "schema": USAGE | CREATE,
    "tablespace": CREATE,
    "type": USAGE,
}
"""What there is to grant on an object, by its kind (views are tables here, procedures functions, domains types)."""
PUBLIC_RIGHTS = {"database": TEMPORARY | CONNECT, "function": EXECUTE, "language": USAGE, "type": USAGE}

OPTION_SHIFT = 16
"""Grant options travel above the privileges themselves where one number holds both."""


class AclItem(msgspec.Struct, frozen=True, array_like=True):
    grantee: int
    grantor: int
    privileges: int
    options: int = 0
    """Those of the privileges that may be passed on."""

    @property
    def bits(self) -> int:
        return self.privileges | self.options << OPTION_SHIFT


Acl = tuple[AclItem, ...]
HasPrivilegesOf = Callable[[int, int], bool]
"""Tells whether the first role may do what the second may."""


def default_acl(kind: str, owner: int) -> Acl:
    """The privileges of an object for which nobody has granted or revoked any."""
    if kind == "column":
        return ()
    public = PUBLIC_RIGHTS.get(kind, 0)
    mine = AclItem(owner, owner, RIGHTS[kind])
    return (AclItem(PUBLIC, owner, public), mine) if public else (mine,)


def with_options(privileges: int) -> int:
    """The grant options for these privileges, as bits of a mask."""
    return privileges << OPTION_SHIFT


def options_of(mask: int) -> int:
    """The privileges for which a mask holds the grant option."""
    return mask >> OPTION_SHIFT


def acl_mask(acl: Acl, role: int, owner: int, wanted: int, has_privileges_of: HasPrivilegesOf) -> int:
    """Which of the wanted bits the role has: by itself, as a member of others, or as everybody."""
    result = 0
    if wanted >> OPTION_SHIFT and has_privileges_of(role, owner):
        result = wanted & ~0 << OPTION_SHIFT
    for item in acl:
        left = item.bits & wanted & ~result
        if left and (item.grantee in (PUBLIC, role) or has_privileges_of(role, item.grantee)):
            result |= left
    return result


def direct_mask(acl: Acl, role: int, owner: int, wanted: int) -> int:
    """Which of the wanted bits were given to the role itself."""
    result = wanted & ~0 << OPTION_SHIFT if role == owner else 0
    for item in acl:
        if item.grantee == role:
            result |= item.bits & wanted
    return result


def best_grantor(
    acl: Acl, role: int, owner: int, privileges: int, is_superuser: bool, also: Iterable[int]
) -> tuple[int, int]:
    """In whose name the role grants or revokes, and for which of the privileges that role has the grant option.

    ``also``: the roles whose privileges the role has, itself included."""
    if is_superuser or role == owner:
        return owner, privileges
    needed = with_options(privileges)
    best, found = role, 0
    for other in also:
        options = direct_mask(acl, other, owner, needed)
        if options == needed:
            return other, privileges
        if options.bit_count() > found.bit_count():
            best, found = other, options
    return best, options_of(found)


# ---------------------------------------------------------------------------------------------------- changes


def update(
    acl: Acl, change: AclItem, owner: int, has_privileges_of: HasPrivilegesOf, *, grant: bool, cascade: bool = True
) -> Acl:
    """The list after adding ``change`` to what its grantor has given its grantee, or taking it away."""
    if grant and change.options:
        _check_circularity(acl, change, owner, has_privileges_of)
    place = next((i for i, a in enumerate(acl) if (a.grantee, a.grantor) == (change.grantee, change.grantor)), None)
    old = acl[place] if place is not None else AclItem(change.grantee, change.grantor, 0)
    if grant:
        new = AclItem(old.grantee, old.grantor, old.privileges | change.privileges, old.options | change.options)
    else:
        new = AclItem(old.grantee, old.grantor, old.privileges & ~change.privileges, old.options & ~change.options)
    kept = (new,) if new.bits else ()
    result = acl + kept if place is None else acl[:place] + kept + acl[place + 1 :]
    lost = old.options & ~new.options
    return _revoke_dependents(result, change.grantee, lost, owner, has_privileges_of, cascade) if lost else result


def _revoke_dependents(
    acl: Acl, grantee: int, lost: int, owner: int, has_privileges_of: HasPrivilegesOf, cascade: bool
) -> Acl:
    """Take away what the role has granted by grant options that it no longer has."""
    if grantee == owner:
        return acl
    lost &= ~options_of(acl_mask(acl, grantee, owner, with_options(lost), has_privileges_of))
    while lost:
        item = next((item for item in acl if item.grantor == grantee and item.privileges & lost), None)
        if item is None:
            break
        if not cascade:
            raise DependentObjectsStillExist("dependent privileges exist", hint="Use CASCADE to revoke them too.")
        acl = update(acl, AclItem(item.grantee, grantee, lost, lost), owner, has_privileges_of, grant=False)
    return acl


def _check_circularity(acl: Acl, change: AclItem, owner: int, has_privileges_of: HasPrivilegesOf) -> None:
    """Refuse to give grant options back to whom the grantor has them from."""
    if change.grantor == owner:
        return
    while True:
        item = next((item for item in acl if item.grantee == change.grantee and item.options), None)
        if item is None:
            break
        without = AclItem(item.grantee, item.grantor, 0, item.options)
        acl = update(acl, without, owner, has_privileges_of, grant=False)
    own = options_of(acl_mask(acl, change.grantor, owner, with_options(change.options), has_privileges_of))
    if change.options & ~own:
        raise DatabaseError.of("0LP01", "grant options cannot be granted back to your own grantor")


def with_owner(acl: Acl, old: int, new: int) -> Acl:
    """The list after a change of owner: what the old one had and gave is the new one's."""
    merged: dict[tuple[int, int], AclItem] = {}
    for item in acl:
        grantee = new if item.grantee == old else item.grantee
        grantor = new if item.grantor == old else item.grantor
        other = merged.get((grantee, grantor))
        privileges, options = (other.privileges, other.options) if other is not None else (0, 0)
        merged[grantee, grantor] = AclItem(grantee, grantor, item.privileges | privileges, item.options | options)
    return tuple(merged.values())


def without_role(acl: Acl, role: int, owner: int, has_privileges_of: HasPrivilegesOf) -> Acl:
    """The list after everything that the role got or gave has been revoked."""
    while True:
        item = next((i for i in acl if role in (i.grantee, i.grantor) and not i.grantee == i.grantor == owner), None)
        if item is None:
            return acl
        everything = item.privileges | item.options
        change = AclItem(item.grantee, item.grantor, everything, everything)
        acl = update(acl, change, owner, has_privileges_of, grant=False)


# ---------------------------------------------------------------------------------------------------- text


def item_text(item: AclItem, name_of: Callable[[int], str]) -> str:
    """``grantee=letters/grantor``; a star follows what may be passed on."""
    letters = "".join(
        letter + ("*" if item.options >> bit & 1 else "")
        for bit, letter in enumerate(LETTERS)
        if item.privileges >> bit & 1
    )
    grantee = "" if item.grantee == PUBLIC else _quoted(name_of(item.grantee))
    return f"{grantee}={letters}/{_quoted(name_of(item.grantor))}"


def _quoted(name: str) -> str:
    if name.isascii() and name.replace("_", "").isalnum():
        return name
    return '"' + name.replace('"', '""') + '"'


def words_of(bits: int) -> list[str]:
    """The names of the privileges, in the order of their bits."""
    return [word for bit, word in NAMES.items() if bits & bit]


def parse_item(text: str, oid_of: Callable[[str], int]) -> AclItem:
    """Read what ``item_text`` writes; raises 22P02."""
    name, rest = _read_name(text.strip())
    if name in ("group", "user") and not rest.startswith("="):
        name, rest = _read_name(rest.lstrip())
    if not rest.startswith("="):
        raise DatabaseError.of("22P02", 'missing "=" sign')
    privileges = options = last = 0
    end = 1
    for letter in rest[1:]:
        if letter in "/ ":
            break
        end += 1
        if letter == "*" and last:
            options |= last
        elif letter in LETTERS:
            last = 1 << LETTERS.index(letter)
            privileges |= last
        else:
            raise DatabaseError.of("22P02", f'invalid mode character: must be one of "{LETTERS}"')
    grantor = 10
    if rest[end : end + 1] == "/":
        giver, tail = _read_name(rest[end + 1 :])
        if not giver:
            raise DatabaseError.of("22P02", 'a name must follow the "/" sign')
        if tail.strip():
            raise DatabaseError.of("22P02", "extra garbage at the end of the ACL specification")
        grantor = oid_of(giver)
    return AclItem(oid_of(name) if name else PUBLIC, grantor, privileges, options)


def _read_name(text: str) -> tuple[str, str]:
    """A name, quoted or not, in front of the text, and what follows it."""
    name: list[str] = []
    quoted = False
    index = 0
    while index < len(text):
        letter = text[index]
        if letter == '"':
            if quoted and text[index + 1 : index + 2] == '"':
                name.append('"')
                index += 1
            else:
                quoted = not quoted
        elif quoted or letter.isalnum() or letter == "_" or not letter.isascii():
            name.append(letter)
        else:
            break
        index += 1
    return "".join(name), text[index:]
