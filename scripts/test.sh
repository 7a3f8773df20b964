#!/usr/bin/env bash
# Every test, on private servers that this starts: `make test`. Arguments go to cargo test.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

# The tests want the same servers on every machine.
export MS5_SANDBOX=${MS5_SANDBOX:-debian}
scripts/setup.sh pg17 pg17-plain pg18 pgbouncer age pglite browser
echo '== tests'
if [[ -z ${MS5_COMMUNITY_URL:-} ]]; then
    echo 'MS5_COMMUNITY_URL is not set: tests that need a full Community server say NOT RUN'
fi
# --no-fail-fast: one run shows everything that is wrong. Signals that our caller ignores (nohup, a job in the background) are
# what some tests send.
env --default-signal=HUP,INT,TERM cargo test --workspace --locked --no-fail-fast "$@"
