#!/bin/sh
# Drop-in for the old test-migration-scripts.sh: finds the binary migration-tests and hands everything over.
# The link is followed, so that a symbolic link to this file works from any folder.
# MS5_EXIT=classic: every failure is 1, as the old scripts had it.
fail() {
    [ "${MS5_EXIT:-}" != classic ] || exit 1
    exit "$1"
}
self=$(readlink -f "$0") || fail 70
here=${self%/*}
MS5_HOME=${MS5_HOME:-${here%/*}}
# The commands that messages print begin with the folder by which this one was called, where the others are there too.
MS5_SCRIPTS=${0%/*}
[ -x "$MS5_SCRIPTS/migration-runner.sh" ] && [ -x "$MS5_SCRIPTS/backup-rollback-manager.sh" ] || MS5_SCRIPTS=$here
export MS5_HOME MS5_SCRIPTS
for dir in "${MS5_BIN_DIR:-}" "$here" "${here%/*}/target/release"; do
    [ -n "$dir" ] && [ -x "$dir/migration-tests" ] && exec "$dir/migration-tests" "$@"
done
command -v migration-tests >/dev/null 2>&1 && exec migration-tests "$@"
echo "$0: cannot find the binary migration-tests in MS5_BIN_DIR, $here, ${here%/*}/target/release or PATH; build it: cargo build --release" >&2
fail 3
