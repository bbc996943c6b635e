#!/usr/bin/env bash
# Installs a Chromium for the tests of the console's pages, where none is and the machine's packages have one.
set -euo pipefail

for name in chromium chromium-browser google-chrome-stable google-chrome chrome; do
  if command -v "$name" >/dev/null; then
    echo "Chromium: $(command -v "$name")"
    exit 0
  fi
done
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
  echo "There is no Chromium, and this script only knows apt-get, as root: install one as this system does." >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
echo "Chromium: $(command -v chromium)"
