#!/usr/bin/env bash
# What the demo and the tests need. Safe to run again.
#   setup.sh                 the tools' binaries, for use: target/release
#   setup.sh ENGINE...       private servers in a cache folder, for the tests: pg17, pg17-plain, pg18, pgbouncer, age, pglite, browser
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

if ! command -v cargo >/dev/null; then
    echo 'cargo is missing: install Rust 1.88 or newer (https://rustup.rs, or your distribution), then run this again' >&2
    exit 3
fi
if ! command -v cc >/dev/null; then
    echo 'a C compiler is missing: install one (on Debian: apt-get install gcc libc6-dev), then run this again' >&2
    exit 3
fi
if (($# == 0)); then
    echo '== building the tools'
    cargo build --release --workspace --bins --locked
    exit
fi
echo '== preparing private servers (once; kept in a cache folder)'
for engine in "$@"; do
    case $engine in
        pglite) scripts/pglite.sh prepare ;;
        browser) scripts/browser.sh prepare ;;
        age) scripts/sandbox.sh bin-age >/dev/null ;;
        pgbouncer) scripts/sandbox.sh prepare-bouncer ;;
        *-plain) scripts/sandbox.sh prepare "--engine=${engine%-plain}" --plain ;;
        *) scripts/sandbox.sh prepare "--engine=$engine" ;;
    esac
done
