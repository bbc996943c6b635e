#!/usr/bin/env bash
# Makes .venv with the locked packages and Turnlog itself, editable. Called by `make setup`.
# PYTHON names the interpreter; without it the first fitting one on the PATH is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  printf 'make setup: %s\n' "$@" >&2
  exit 1
}

# Whether an interpreter is at least 3.11 and, if a second argument says so, one that every locked package has a wheel for.
fits() {
  local wanted='(3, 11) <= v'
  [ "${2:-}" = wheels ] && wanted='(3, 11) <= v <= (3, 13)'
  "$1" -c "import sys; v = sys.version_info[:2]; sys.exit(not ($wanted))" 2>/dev/null
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if fits "$name" wheels; then echo "$name" && return; fi
  done
  if fits python3; then echo python3; fi
}

if [ -n "${PYTHON:-}" ]; then
  command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a program on the PATH"
  fits "$PYTHON" || fail "$PYTHON is $("$PYTHON" --version 2>&1), and Turnlog needs Python 3.11 or newer"
  python=$PYTHON
else
  python=$(find_python)
  if [ -z "$python" ]; then
    found=$(python3 --version 2>&1) || found="no python3 at all"
    fail "Turnlog needs Python 3.11 or newer, and the PATH has ${found}." \
      "Install one, or name it: make setup PYTHON=/path/to/python3.13"
  fi
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python cannot make virtual environments." \
    "On Debian and Ubuntu: apt install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"

# An environment of another interpreter, or a half-made or moved one, is made anew.
if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi

if ! fits .venv/bin/python wheels; then
  echo "Note: some packages have no wheel for $(.venv/bin/python --version) and are built with the C compiler."
fi
echo "Installing the locked packages (some 200 MB to download the first time)"
quiet=--quiet
[ -t 1 ] && quiet=
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input install $quiet "$@"; }
pip --require-hashes -r requirements-dev.lock
pip --no-deps --no-build-isolation -e .
echo "Ready: .venv"
