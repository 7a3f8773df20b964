#!/usr/bin/env bash
# Formatting, lints and docs, with warnings as errors: the same for people and for CI.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

echo '== every file of tests/ is a [[test]] of a crate'
missing=0
for file in tests/*.rs; do
    if ! grep -qF "path = \"../../$file\"" crates/*/Cargo.toml; then
        echo "$file: no crate's manifest names it, so it is never compiled" >&2
        missing=1
    fi
done
((missing == 0))

echo '== cargo fmt'
cargo fmt --all --check
echo '== cargo clippy'
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
echo '== cargo doc'
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked --quiet
if command -v shellcheck >/dev/null; then
    echo '== shellcheck'
    shellcheck -x scripts/*.sh scripts/*/*.sh .ci/run
fi
echo 'check: all well'
