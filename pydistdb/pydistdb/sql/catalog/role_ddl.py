"""Which module executes which statement about roles, owners and privileges."""

from __future__ import annotations

from pydistdb.sql import role_statements as roles
from pydistdb.sql.catalog.alter_database import alter_database
from pydistdb.sql.catalog.change_roles import alter_role, create_role, drop_role, rename_role
from pydistdb.sql.catalog.default_privileges import alter_default_privileges
from pydistdb.sql.catalog.grants import grant
from pydistdb.sql.catalog.memberships import grant_role
from pydistdb.sql.catalog.owners import alter_owner, drop_owned, reassign_owned
from pydistdb.sql.catalog.role_settings import alter_settings

ROLE_EXECUTORS = {
    roles.AlterDatabase: alter_database,
    roles.AlterDefaultPrivileges: alter_default_privileges,
    roles.AlterOwner: alter_owner,
    roles.AlterRole: alter_role,
    roles.AlterSettings: alter_settings,
    roles.CreateRole: create_role,
    roles.DropOwned: drop_owned,
    roles.DropRole: drop_role,
    roles.Grant: grant,
    roles.GrantRole: grant_role,
    roles.ReassignOwned: reassign_owned,
    roles.RenameRole: rename_role,
}
