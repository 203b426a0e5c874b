#!/usr/bin/env bash
# Creates a virtual environment and installs nbutils with the exact tested set.
# Usage: setup_environment.sh [FOLDER]; PYTHON=... picks the interpreter.
set -euo pipefail

venv=${1:-.venv}

is_supported() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    local name
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if is_supported "$name"; then
            echo "$name"
            return
        fi
    done
    echo "No Python 3.10 or newer was found (python3 is" \
        "$(python3 --version 2>/dev/null || echo absent))." >&2
    echo "Install one, for example: sudo apt-get install -y python3 python3-venv" >&2
    echo "or name one: make run PYTHON=/path/to/python3.11" >&2
    return 1
}

# A venv with pip: the standard way, then the two that work where Debian's
# python3-venv package is missing.
create() {
    local python=$1 version
    "$python" -m venv "$venv" >/dev/null 2>&1 && return
    rm -rf "$venv"
    "$python" -m virtualenv --quiet "$venv" >/dev/null 2>&1 && return
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv" >/dev/null 2>&1 &&
        "$python" -m pip --python "$venv/bin/python" install --quiet pip \
            >/dev/null 2>&1 && return
    rm -rf "$venv"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$python cannot create a virtual environment: its venv part is missing." >&2
    echo "Install it: sudo apt-get install -y python3-venv python$version-venv" >&2
    return 1
}

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Environment $venv is there; bringing it up to date."
else
    python=$(find_python)
    echo "Creating $venv with $("$python" --version) ..."
    rm -rf "$venv"
    create "$python"
fi

echo "Installing PyTorch and friends: several GB, 2-6 minutes;" \
    "pip's own progress follows."
"$venv/bin/python" -m pip install --disable-pip-version-check --retries 5 \
    -r requirements.txt -e .
echo "Installed into $venv."
