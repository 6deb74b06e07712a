"""Lists of privileges: their text, and what must hold after any sequence of GRANTs and REVOKEs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog.acl import Acl, AclItem
from pydistdb.sql.errors import DatabaseError

OWNER = 1
NAMES = {1: "owner", 2: "bob", 3: "Eve x", 4: 'q"o'}
BITS = acls.TABLE_RIGHTS

items = st.builds(
    lambda grantee, grantor, privileges, options: AclItem(grantee, grantor, privileges | options, options),
    st.sampled_from([0, *NAMES]),
    st.sampled_from(list(NAMES)),
    st.integers(0, BITS),
    st.integers(0, BITS),
)


@given(items)
def test_text_is_read_back(item: AclItem) -> None:
    numbers = {name: oid for oid, name in NAMES.items()}
    assert acls.parse_item(acls.item_text(item, NAMES.__getitem__), numbers.__getitem__) == item


steps = st.tuples(
    st.booleans(), st.integers(1, 4), st.integers(0, 4), st.sampled_from([1, 2, 4, 7]), st.booleans(), st.booleans()
)


def apply(acl: Acl, is_grant: bool, grantor: int, grantee: int, privileges: int, option: bool, cascade: bool) -> Acl:
    """GRANT or REVOKE by a role, as far as it may."""
    own = acls.options_of(acls.acl_mask(acl, grantor, OWNER, acls.with_options(privileges), int.__eq__))
    if not grantee:
        option = option and not is_grant
    change = AclItem(grantee, grantor, own if is_grant or not option else 0, own if not is_grant or option else 0)
    return acls.update(acl, change, OWNER, int.__eq__, grant=is_grant, cascade=cascade)


@given(st.lists(steps, max_size=25))
def test_nobody_has_what_nobody_could_give(sequence: list[tuple[bool, int, int, int, bool, bool]]) -> None:
    acl = acls.default_acl("table", OWNER)
    for step in sequence:
        try:
            acl = apply(acl, *step)
        except DatabaseError as error:
            assert error.sqlstate in ("2BP01", "0LP01")
        pairs = [(item.grantee, item.grantor) for item in acl]
        assert len(set(pairs)) == len(pairs)
        for item in acl:
            assert (item.bits and not item.options & ~item.privileges) or item.grantor == OWNER
            if item.grantor != OWNER:
                held = acls.acl_mask(acl, item.grantor, OWNER, acls.with_options(item.privileges), int.__eq__)
                assert acls.options_of(held) == item.privileges, "a grant must go with the option behind it"


def test_options_cannot_be_given_back() -> None:
    acl = acls.default_acl("table", OWNER)
    acl = apply(acl, True, OWNER, 2, acls.SELECT, True, False)
    acl = apply(acl, True, 2, 3, acls.SELECT, True, False)
    try:
        apply(acl, True, 3, 2, acls.SELECT, True, False)
        raise AssertionError("3 has its option from 2")
    except DatabaseError as error:
        assert error.sqlstate == "0LP01"
    assert acls.item_text(apply(acl, False, OWNER, 2, acls.SELECT, False, True)[0], NAMES.__getitem__) == (
        "owner=arwdDxt/owner"
    )
    assert len(apply(acl, False, OWNER, 2, acls.SELECT, False, True)) == 1


def test_a_new_owner_takes_over() -> None:
    acl = apply(acls.default_acl("table", OWNER), True, OWNER, 2, acls.SELECT, True, False)
    texts = [acls.item_text(item, NAMES.__getitem__) for item in acls.with_owner(acl, OWNER, 2)]
    assert texts == ["bob=ar*wdDxt/bob"]
    assert acls.without_role(acl, 2, OWNER, int.__eq__) == acls.default_acl("table", OWNER)
