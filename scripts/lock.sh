#!/usr/bin/env bash
# Makes requirements.lock (what the image runs: workers, the materializer, the HTTP front, SQL) and requirements-dev.lock (that, the
# development stack and the tools) from pyproject.toml.
# Versions already locked stay; `scripts/lock.sh --upgrade` takes the newest that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools/venv"
"$tools/venv/bin/python" -m pip install --quiet "uv>=0.13.9,<0.14"

# --universal: one file for every Python and platform that pyproject.toml admits, told apart by markers.
compile() { # output file, further arguments
  local out=$1
  shift
  "$tools/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --extra build "$@" --output-file "$out" pyproject.toml >/dev/null
  { echo "# Made from pyproject.toml by 'make lock'; do not edit."; cat "$out"; } >"$tools/lock"
  cat "$tools/lock" >"$out"
}

# The tools first: the runtime's lock then repeats their versions, so that what is tested is what runs.
compile requirements-dev.lock --extra dev "$@"
compile requirements.lock --extra worker --extra serve --extra otel --constraint requirements-dev.lock
