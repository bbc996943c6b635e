#!/usr/bin/env bash
# make audit: what is known of the locked packages of the image (requirements.lock), and their list as a CycloneDX file in dist/.
# Exit code 1: a vulnerability is known. 3: not every package could be asked for, so nothing is said. ARGS go to pip-audit
# (--ignore-vuln ID, --vulnerability-service osv). AUDIT_TIMEOUT_S bounds the asking.
set -eu -o pipefail
cd "$(dirname "$0")/.."

BIN=${AUDIT_BIN:-.venv/bin}
OUT=${AUDIT_OUT:-dist}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
sbom=$OUT/turnlog-$version.cdx.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$OUT"

"$BIN/cyclonedx-py" requirements --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON \
  -o "$sbom" requirements.lock 2>"$work/sbom.err" &
sbom_job=$!
# What it says of itself is not enough: packages that it could not ask for are no findings to it.
timeout "${AUDIT_TIMEOUT_S:-120}" "$BIN/pip-audit" --requirement requirements.lock --require-hashes --disable-pip \
  --progress-spinner off --timeout 5 --format json --output "$work/found.json" "$@" >"$work/audit.err" 2>&1 || true
wait "$sbom_job" || { cat "$work/sbom.err" >&2; echo "audit: the SBOM was not made" >&2; exit 2; }
echo "audit: $sbom lists $(grep -c '"purl"' "$sbom") packages"

python3 - "$work/found.json" "$work/audit.err" <<'EOF'
import json
import pathlib
import sys

found, said = (pathlib.Path(name) for name in sys.argv[1:])
if not found.is_file():
    reason = (said.read_text(errors="replace").strip().splitlines() or ["no answer in time"])[-1]
    print(f"audit: nothing could be asked: {reason[:300]}")
    sys.exit(3)
packages = json.loads(found.read_text())["dependencies"]
unknown = [package["name"] for package in packages if "skip_reason" in package]
findings = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", ())]
for package, vulnerability in findings:
    fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
    also = "".join(f" {alias}" for alias in vulnerability.get("aliases", ()))
    print(f"audit: {package['name']} {package['version']}: {vulnerability['id']}{also}; mended in {fixed}")
if unknown:
    print(f"audit: {len(unknown)} of {len(packages)} packages could not be asked for: {', '.join(unknown[:5])} ...")
if findings:
    sys.exit(1)
if unknown or not packages:
    sys.exit(3)
print(f"audit: nothing is known against {len(packages)} packages")
EOF
