#!/usr/bin/env bash
# Measures the runner beside psql in the same run: the nine migrations on the field's database, in turn, each on a fresh
# copy of it. Machines differ and are noisy: read the ratio of the medians, not the seconds.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

runs=${MS5_BENCH_RUNS:-5} rows=${MS5_BENCH_ROWS:-200000}
scripts/setup.sh
scripts/sandbox.sh down --name=bench >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"; scripts/sandbox.sh down --name=bench >/dev/null' EXIT
scripts/sandbox.sh up --name=bench
unset ENVIRONMENT DB_HOST DB_PORT DB_NAME DB_USER PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGPASSWORD PGOPTIONS
eval "$(scripts/sandbox.sh env --name=bench --environment=test)"
export PGHOST=$DB_HOST PGPORT=$DB_PORT PGUSER=$DB_USER PGPASSWORD=$POSTGRES_PASSWORD_TEST
psql=("$MS5_SANDBOX_BIN/psql" -X -q -v ON_ERROR_STOP=1)

fresh_database() {
    "${psql[@]}" -d postgres -c 'SET client_min_messages = warning' -c 'DROP DATABASE IF EXISTS bench WITH (FORCE)' \
        -c 'CREATE DATABASE bench TEMPLATE field'
}
by_psql() {
    local file
    for file in migrations/*.sql; do
        "${psql[@]}" -d bench --single-transaction -f "$file" || return
    done
}
by_runner() {
    # Without the PG* variables that it ignores with a warning.
    env -u PGHOST -u PGPORT -u PGUSER -u PGPASSWORD DB_NAME=bench MS5_LOG_DIR="$work" \
        target/release/migration-runner --environment=test
}
timed() { # NAME FUNCTION
    local begin end
    fresh_database
    begin=$(date +%s%N)
    "$2" >"$work/out" 2>&1 || { cat "$work/out" >&2 && exit 1; }
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000)) >>"$work/$1"
}
median() { sort -n "$work/$1" | sed -n "$(((runs + 1) / 2))p"; }

echo "== the field's database with $rows metric rows"
"${psql[@]}" -d postgres -c 'CREATE DATABASE field'
"${psql[@]}" -d field -v "metric_rows=$rows" -f tests/fixtures/field/schema.sql -f tests/fixtures/field/reference.sql \
    -f tests/fixtures/field/data.sql
echo "== $runs paired runs of the nine migrations"
for ((run = 0; run < runs; run++)); do
    timed psql by_psql
    timed runner by_runner
done
awk -v psql="$(median psql)" -v runner="$(median runner)" 'BEGIN {
    printf "psql, one transaction a file:  median %d ms\nmigration-runner:              median %d ms\nratio:                         %.2f\n",
           psql, runner, runner / psql }'
