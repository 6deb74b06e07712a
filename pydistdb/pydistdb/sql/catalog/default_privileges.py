"""ALTER DEFAULT PRIVILEGES: what objects that a role will make get from the start.

An entry without a schema takes the place of the built-in default for its kind of object, one with a schema is added to
that.  What a new object gets is worked out in default_acls.py; an entry that says what would hold anyway is not kept.

Source: PostgreSQL 15 manual, ALTER DEFAULT PRIVILEGES; aclchk.c (SetDefaultACL, get_user_default_acl).
"""

from __future__ import annotations

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.default_acls import LETTERS
from pydistdb.sql.catalog.descriptors import DefaultAcl
from pydistdb.sql.catalog.grants import merge, wanted_privileges
from pydistdb.sql.catalog.role_names import check_member, grantee, named_role
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.role_statements import AlterDefaultPrivileges


async def alter_default_privileges(ddl: DdlContext, statement: AlterDefaultPrivileges) -> str:
    grant = statement.grant
    letter = LETTERS.get(grant.kind)
    if letter is None:
        raise FeatureNotSupported(f"default privileges on {grant.kind} objects are not supported")
    if letter == "n" and statement.schemas:
        raise DatabaseError.of("0LP01", "cannot use IN SCHEMA clause when using GRANT/REVOKE ON SCHEMAS")
    wanted = wanted_privileges(grant)
    if wanted.columns:
        raise DatabaseError.of("0LP01", "default privileges cannot be set for columns")
    grantees = [grantee(ddl, spec) for spec in grant.grantees]
    roles = [named_role(ddl, spec) for spec in statement.roles] or [ddl.current_role]
    schemas = [ddl.schema(name).oid for name in statement.schemas] or [0]
    kind = "function" if letter == "f" else grant.kind
    for role in roles:
        check_member(ddl, role)
        for schema in schemas:
            old = ddl.view.state.default_acls.get((role.oid, schema, letter))
            built_in = () if schema else acls.default_acl(kind, role.oid)
            before = built_in if old is None else old.items
            after = merge(ddl, grant, before, wanted.privileges, role.oid, role.oid, grantees)
            if set(after) == set(built_in):
                entry = None
            else:
                entry = DefaultAcl(await ddl.store.allocate_oids() if old is None else old.oid, after)
            if entry is not None or old is not None:
                ddl.apply([(keys.default_acl_key(ddl.database_oid, role.oid, schema, letter), entry)])
    return "ALTER DEFAULT PRIVILEGES"
