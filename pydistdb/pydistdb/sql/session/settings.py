"""The settings in force for one session, and what becomes of them when its transaction ends.

Theory of operation
-------------------
Three layers: the *defaults* (built in, then the startup packet's), the *session's* values (SET) and the *transaction's*
(SET LOCAL), each hiding the one below.  Every SET inside a transaction leaves an entry in a journal, so that

* COMMIT forgets the journal and the transaction's layer;
* ROLLBACK plays the journal back, then forgets the transaction's layer;
* ROLLBACK TO SAVEPOINT plays it back to the savepoint's mark.

    SET a = 1          session {a: 1}
    BEGIN; SET LOCAL a = 2; SET b = 3     session {a: 1, b: 3}, transaction {a: 2}, journal [(a, 1, -), (b, -, -)]
    ROLLBACK           session {a: 1}

``values`` is the outcome by lower-case name; the evaluation context shares it, so functions that depend on a setting
see changes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pydistdb.sql import settings as table
from pydistdb.sql.errors import InsufficientPrivilege, InvalidParameterValue, UndefinedObject
from pydistdb.sql.settings import Setting

MAX_CUSTOM_SETTINGS = 1_000

IDENTITY = ("role", "session_authorization")
"""What RESET ALL leaves alone: who the session acts as."""

Changed = Callable[[Setting, str], None]


class _Undo(NamedTuple):
    key: str
    session: str | None
    transaction: str | None


class SessionSettings:
    """See the module's introduction.  ``changed`` is told whenever a value in force becomes another."""

    def __init__(self, startup: dict[str, str], user: str, changed: Changed) -> None:
        self.values: dict[str, str] = {key: setting.default for key, setting in table.SETTINGS.items()}
        self.values["session_authorization"] = user
        self._session: dict[str, str] = {}
        self._transaction: dict[str, str] = {}
        self._journal: list[_Undo] = []
        self._changed = changed
        for name, value in startup.items():
            setting = table.find(name)
            table.check_settable(setting)
            self.values[setting.key] = table.canonical(setting, value)
        self._defaults = dict(self.values)

    def reported(self) -> Iterable[tuple[str, str]]:
        """The settings that clients are told, by their proper names."""
        return [(setting.name, self.values[setting.key]) for setting in table.SETTINGS.values() if setting.reported]

    def show(self, name: str) -> tuple[Setting, str]:
        """A setting and its value; raises 42704."""
        setting = table.find(name)
        value = self.values.get(setting.key)
        if value is None:  # a customized option that nobody has set
            raise UndefinedObject(f'unrecognized configuration parameter "{name}"')
        return setting, value

    def set(self, setting: Setting, text: str, *, local: bool) -> str:
        """Check and set a value; returns it as shown."""
        self._check(setting)
        if setting.key == "datestyle":
            value = table.merge_date_style(setting, text, self.values["datestyle"])
        else:
            value = table.canonical(setting, text)
        if setting.key not in self.values and len(self.values) > len(table.SETTINGS) + MAX_CUSTOM_SETTINGS:
            raise InvalidParameterValue("too many customized options are set")
        self._assign(setting.key, value, local=local)
        return value

    def _check(self, setting: Setting) -> None:
        table.check_settable(setting)
        if setting.context == "superuser" and self.values["is_superuser"] == "off":
            raise InsufficientPrivilege(f'permission denied to set parameter "{setting.name}"')

    def default(self, setting: Setting) -> str:
        """What RESET sets."""
        return self._defaults.get(setting.key, setting.default)

    def reset(self, setting: Setting, *, local: bool = False) -> None:
        """Back to the default of the session."""
        self._check(setting)
        self._assign(setting.key, self.default(setting), local=local)

    def reset_all(self) -> None:
        """Back to the defaults, except for what belongs to the transaction."""
        for key in dict.fromkeys((*self._session, *self._transaction)):
            if not key.startswith("transaction_") and key not in IDENTITY:
                self._assign(key, self._defaults.get(key, ""), local=False)

    def set_characteristic(self, key: str, value: str) -> None:
        """Show what the current transaction is (transaction_isolation and the like); no rollback brings it back."""
        self._session[key] = value
        self.values[key] = value

    def show_superuser(self, is_superuser: bool) -> bool:
        """Set what is_superuser shows; tells whether that is news."""
        value = "on" if is_superuser else "off"
        changed = self.values["is_superuser"] != value
        self.values["is_superuser"] = value
        return changed

    def mark(self) -> int:
        """Where the journal stands (for a savepoint)."""
        return len(self._journal)

    def commit(self) -> bool:
        """Keep what SET did; what SET LOCAL did ends.  Tells whether anything was set."""
        if not self._journal and not self._transaction:
            return False
        self._journal.clear()
        keys = list(self._transaction)
        self._transaction.clear()
        self._refresh(keys)
        return True

    def rollback(self) -> bool:
        """Undo everything since the transaction began.  Tells whether there was anything."""
        if not self._journal and not self._transaction:
            return False
        keys = dict.fromkeys((*self._transaction, *(undo.key for undo in self._journal)))
        self._play_back(0)
        self._transaction.clear()
        self._refresh(keys)
        return True

    def rollback_to(self, mark: int) -> None:
        """Undo everything since ``mark``."""
        keys = dict.fromkeys(undo.key for undo in self._journal[mark:])
        self._play_back(mark)
        self._refresh(keys)

    def _assign(self, key: str, value: str, *, local: bool) -> None:
        self._journal.append(_Undo(key, self._session.get(key), self._transaction.get(key)))
        if local:
            self._transaction[key] = value
        else:
            self._session[key] = value
            self._transaction.pop(key, None)
        self._refresh((key,))

    def _play_back(self, mark: int) -> None:
        for undo in reversed(self._journal[mark:]):
            for layer, old in ((self._session, undo.session), (self._transaction, undo.transaction)):
                if old is None:
                    layer.pop(undo.key, None)
                else:
                    layer[undo.key] = old
        del self._journal[mark:]

    def _refresh(self, keys: Iterable[str]) -> None:
        for key in keys:
            value = self._transaction.get(key, self._session.get(key, self._defaults.get(key)))
            old = self.values.get(key)
            if value == old:
                continue
            if value is None:
                del self.values[key]
                continue
            self.values[key] = value
            setting = table.SETTINGS.get(key)
            if setting is not None:
                self._changed(setting, value)
