#!/bin/sh
# Drop-in for the old migration-runner.sh: finds the binary migration-runner and hands everything over.
# The link is followed, so that a symbolic link to this file works from any folder.
self=$(readlink -f "$0") && here=${self%/*} || exit 70
MS5_HOME=${MS5_HOME:-${here%/*}}
export MS5_HOME
for dir in "${MS5_BIN_DIR:-}" "$here" "${here%/*}/target/release"; do
    [ -n "$dir" ] && [ -x "$dir/migration-runner" ] && exec "$dir/migration-runner" "$@"
done
command -v migration-runner >/dev/null 2>&1 && exec migration-runner "$@"
echo "$0: cannot find the binary migration-runner in MS5_BIN_DIR, $here, ${here%/*}/target/release or PATH; build it: cargo build --release" >&2
exit 3
