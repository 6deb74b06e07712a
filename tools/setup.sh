#!/usr/bin/env bash
# Makes the virtual environment given as $1 and installs PyDistDB with its development tools into it.
# Prefers Debian's interpreter: it is built with profile-guided optimisation, worth a factor of 1.3 to 1.45 here.
set -euo pipefail
venv=$1

good() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=""
for candidate in ${PYDISTDB_PYTHON:-} /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && good "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "PyDistDB needs Python 3.11 or newer. On Debian: apt-get install python3 python3-venv" >&2
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing python3-venv ..."
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    else
        echo "The venv module of $python is missing. On Debian: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "Installing PyDistDB into $venv (Python $("$venv/bin/python" -c 'import platform; print(platform.python_version())')) ..."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]' 2> >(grep -v '^WARNING: Location' >&2)
