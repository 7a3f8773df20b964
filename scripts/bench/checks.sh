# shellcheck shell=bash
# The validators: how long an operator waits for them, and what counting and hashing rows costs beside the least that it
# can cost. Needs measure.sh.

# Targets: whole processes, in milliseconds; and at most so many times the query by hand.
QUICK_LIMIT=300
POST_LIMIT=500
FINGERPRINT_LIMIT=2
HASHED=factory_telemetry.metric_hist

bench_checks() {
    local round
    DATABASE=checks
    echo "== the field's database with $CHECK_ROWS metric rows: rows counted and hashed over one connection, in turn, $RUNS rounds"
    sql -d postgres -c "CREATE DATABASE $DATABASE TEMPLATE template0"
    sql -d "$DATABASE" -v "metric_rows=$CHECK_ROWS" -f tests/fixtures/field/schema.sql \
        -f tests/fixtures/field/reference.sql -f tests/fixtures/field/data.sql
    sql -d "$DATABASE" -c "VACUUM ANALYZE $HASHED"
    settle
    for ((round = 0; round < RUNS; round++)); do
        if ! timed hash.hand by_hand ||
            ! timed hash.ours validator pre-validate --quick "--fingerprint=$HASHED" --jobs=1; then
            show_output
            failed 'the rows could not be counted and hashed'
            return
        fi
    done
    awk -v hand="$(median hash.hand)" -v ours="$(median hash.ours)" -v ratio="$(ratio hash.ours hash.hand)" 'BEGIN {
        printf "by hand: median %.0f ms, pre-validate --fingerprint: %.0f ms, ratio: %.2f\n", hand / 1000, ours / 1000, ratio }'
    is "$(ratio hash.ours hash.hand) <= $FINGERPRINT_LIMIT" ||
        failed "a fingerprint takes more than $FINGERPRINT_LIMIT times the query by hand"

    runner >"$WORK/out" 2>&1 </dev/null || {
        show_output
        failed 'the database could not be migrated'
        return
    }
    settle
    echo "== the validators on it, migrated, $((RUNS * 3)) rounds"
    for ((round = 0; round < RUNS * 3; round++)); do
        if ! timed checks.pre validator pre-validate --quick || ! timed checks.post validator post-validate; then
            show_output
            failed 'a validator did not pass'
            return
        fi
    done
    under checks.pre "$QUICK_LIMIT" 'pre-validate --quick'
    under checks.post "$POST_LIMIT" 'post-validate'
}

by_hand() { sql -d "$DATABASE" -Atc "SELECT count(*), sum(hash_record_extended(t, 0)) FROM $HASHED t"; }

# validator TOOL FLAG...: any machine is enough here.
validator() {
    local tool=$1
    shift
    local limits=()
    [[ $tool != pre-validate ]] || limits=(--min-disk=1 --min-memory=1)
    DB_NAME=$DATABASE MS5_LOG_DIR=$WORK/logs "target/release/$tool" --environment=test "${limits[@]}" "$@"
}

under() { # SERIES LIMIT NAME
    awk -v name="$3" -v median="$(median "$1")" -v limit="$2" 'BEGIN {
        printf "%-22s median %.0f ms, limit %d ms\n", name ":", median / 1000, limit }'
    is "$(median "$1") / 1000 <= $2" || failed "$3 takes more than $2 ms"
}
