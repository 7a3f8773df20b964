#!/bin/sh
# Drop-in for the old pre-migration-validation.sh: finds the binary pre-validate and hands everything over.
# The link is followed, so that a symbolic link to this file works from any folder.
self=$(readlink -f "$0") && here=${self%/*} || exit 70
MS5_HOME=${MS5_HOME:-${here%/*}}
export MS5_HOME
for dir in "${MS5_BIN_DIR:-}" "$here" "${here%/*}/target/release"; do
    [ -n "$dir" ] && [ -x "$dir/pre-validate" ] && exec "$dir/pre-validate" "$@"
done
command -v pre-validate >/dev/null 2>&1 && exec pre-validate "$@"
echo "$0: cannot find the binary pre-validate in MS5_BIN_DIR, $here, ${here%/*}/target/release or PATH; build it: cargo build --release" >&2
exit 3
