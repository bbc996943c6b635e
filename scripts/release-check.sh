#!/usr/bin/env bash
# make release-check: builds sdist and wheel as they would be published, and tries them. Makes no tag and sends nothing.
# The wheel is built from the unpacked sdist; twine reads both; the wheel is installed alone and asked for its version.
set -eu -o pipefail
cd "$(dirname "$0")/.."

TWINE='twine>=6,<7'
fail() { echo "release-check: $*" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
grep -q "^## \[$version\] - 20" CHANGELOG.md || fail "CHANGELOG.md has no dated section of $version"
[ -f "tests/data/logs/$version.jsonl.gz" ] || fail "no recorded log: python -m tests.recorded_log $version"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m hatchling build --target sdist --directory "$work/dist"
sdist=$work/dist/turnlog-$version.tar.gz
tar -xzf "$sdist" -C "$work"
(cd "$work/turnlog-$version" && "$OLDPWD/.venv/bin/python" -m hatchling build --target wheel --directory "$work/dist")
wheel=$work/dist/turnlog-$version-py3-none-any.whl

contents() { tar -tzf "$sdist" | sed "s#^[^/]*/##" >"$work/sdist.txt"; .venv/bin/python -m zipfile -l "$wheel" | awk 'NR > 1 {print $1}' >"$work/wheel.txt"; }
contents
while read -r schema; do
    grep -qx "${schema#schemas/}" "$work/wheel.txt" || fail "the wheel lacks ${schema#schemas/}"
    grep -qx "$schema" "$work/sdist.txt" || fail "the sdist lacks $schema"
done < <(git ls-files 'schemas/turnlog_schemas/*.avsc')
for file in sdist wheel; do
    if grep -E '^(tests|benchmarks|findings|examples)/|__pycache__|\.duckdb$' "$work/$file.txt"; then
        fail "the $file holds what it must not (above)"
    fi
done
for file in turnlog/__init__.py turnlog_workers/__init__.py turnlog_streams/__init__.py turnlog_schemas/__init__.py; do
    grep -qx "$file" "$work/wheel.txt" || fail "the wheel lacks $file"
done

python=$PWD/.venv/bin/python
"$python" -m venv "$work/tools" && "$work/tools/bin/pip" --disable-pip-version-check install -q "$TWINE"
"$work/tools/bin/twine" check --strict "$sdist" "$wheel"
"$python" -m venv "$work/fresh" && "$work/fresh/bin/pip" --disable-pip-version-check install -q "$wheel"
said=$(cd "$work" && fresh/bin/turnlog --version)
[ "$said" = "turnlog $version" ] || fail "the installed wheel says: $said"

mkdir -p dist
cp "$sdist" "$wheel" dist/
(cd dist && sha256sum "$(basename "$sdist")" "$(basename "$wheel")")
echo "turnlog $version: $(wc -l <"$work/wheel.txt") files in the wheel, $(wc -l <"$work/sdist.txt") in the sdist; both are in dist/"
