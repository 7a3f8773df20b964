#!/usr/bin/env bash
# Two hundred runs that are struck at seeded moments, and what the next run makes of them: `make chaos`. `make test` has
# thirty of them. MS5_CHAOS_SEED repeats one, MS5_CHAOS_TRIALS sets how many; arguments go to the test.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

# The test wants the same servers on every machine.
export MS5_SANDBOX=${MS5_SANDBOX:-debian}
[[ -n ${MS5_CHAOS_SEED:-} ]] || export MS5_CHAOS_TRIALS=${MS5_CHAOS_TRIALS:-200}
scripts/setup.sh pg17 pg18
cargo test --package migration-tests --test chaos --locked -- "$@"
