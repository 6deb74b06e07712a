#!/usr/bin/env bash
# Installs the Debian packages that the tests and the comparison run against: psql, pgbench and PostgreSQL 15 itself.
# The server is only ever started by us, on a port of its own; Debian's default cluster is not used.
set -euo pipefail
if [ -x /usr/lib/postgresql/15/bin/pgbench ] && [ -x /usr/lib/postgresql/15/bin/initdb ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing postgresql-15 (psql, pgbench) ..."
    apt-get update -qq
    mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/pydistdb.conf
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql-15 postgresql-client-15 >/dev/null || true
fi
if [ ! -x /usr/lib/postgresql/15/bin/pgbench ]; then
    echo "psql and pgbench of PostgreSQL 15 are missing; the tests that use them will be skipped." >&2
    echo "On Debian 12: sudo apt-get install postgresql-15 postgresql-client-15" >&2
fi
