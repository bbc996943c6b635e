#!/usr/bin/env bash
# Brings a Prometheus with its promtool for the tests of alerts, where none is and the machine's packages have one. It is unpacked into the
# cache folder, where the tests look for it: no service is installed, and no root is needed.
set -euo pipefail

cache=${TURNLOG_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/turnlog}/prometheus
for name in prometheus promtool; do
  command -v "$name" >/dev/null || [ -x "$cache/usr/bin/$name" ] || missing=$name
done
if [ -z "${missing:-}" ]; then
  echo "Prometheus: $(command -v prometheus || echo "$cache/usr/bin/prometheus")"
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "There is no $missing, and this script only knows apt-get: install Prometheus as this system does." >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download -qq prometheus 2>/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "apt-get knows no package prometheus here: run apt-get update as root, then this again." >&2; exit 1; }
  apt-get update -qq
  apt-get download -qq prometheus
fi
mkdir -p "$cache"
dpkg-deb -x prometheus_*.deb "$cache"
"$cache/usr/bin/promtool" --version >/dev/null
echo "Prometheus: $cache/usr/bin/prometheus"
