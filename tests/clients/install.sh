#!/usr/bin/env bash
# Installs the clients under test: npm packages here, Python packages in .cache/venv, both in pinned versions. Does
# nothing where they are there already.
set -euo pipefail
cd "$(dirname "$0")"

stamp=.cache/installed
want=$(cat package-lock.json requirements.txt constraints.txt | sha256sum)
if [[ -f $stamp && $(cat "$stamp") == "$want" && -x .cache/venv/bin/python && -d node_modules ]]; then
    exit 0
fi
rm -rf .cache node_modules
/usr/bin/python3 -m venv .cache/venv
.cache/venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
npm ci --no-audit --no-fund --loglevel=error
printf '%s' "$want" >"$stamp"
