#!/usr/bin/env bash
# A Chromium for the browser tests: the system's, else Playwright's own.
# Usage: ensure_browser.sh [ENVIRONMENT]
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-.venv}/bin/python
if PYTHONPATH=tests "$python" -c \
    'import sys; from browser.lab import browser_path; sys.exit(browser_path() is None)'; then
    exit 0
fi
echo "No Chromium on this system: installing Playwright's (about 150 MB) ..."
"$python" -m playwright install --with-deps chromium
