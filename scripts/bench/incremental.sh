# shellcheck shell=bash
# Incremental backups of a hypertable of 58 chunks, one of which changes between the first and the second: as a superuser, who
# can look at pages, and as the owner, for whom everything is read. Needs measure.sh and backup.sh.

# At most so much of the time of the first is what the second takes, of a superuser.
INCREMENTAL_LIMIT=0.1

bench_incremental() {
    local round who
    DATABASE=incremental
    export MS5_BACKUP_DIR=$WORK_ON_DISK/incremental
    cc -O2 -o "$WORK/peak" scripts/bench/peak.c
    echo "== a hypertable of $INCREMENTAL_ROWS rows in 58 chunks: a first and a second incremental backup, $RUNS rounds"
    fill_hypertable "$INCREMENTAL_ROWS"
    for who in superuser owner; do
        for ((round = 0; round < RUNS; round++)); do
            rm -rf "$MS5_BACKUP_DIR"
            change_one_chunk
            if ! { timed "incremental.$who.first" "incremental_$who" && change_one_chunk &&
                timed "incremental.$who.second" "incremental_$who"; }; then
                show_output
                failed 'an incremental backup did not end well'
                return
            fi
        done
        grep -o '[0-9]* of [0-9]* pieces are unchanged.*' "$WORK/out"
        echo "as the $who: the second takes $(ratio "incremental.$who.second" "incremental.$who.first") of the first;" \
            "medians $(median "incremental.$who.second") and $(median "incremental.$who.first") us"
    done
    is "$(ratio incremental.superuser.second incremental.superuser.first) <= $INCREMENTAL_LIMIT" ||
        failed "a second incremental backup takes more than $INCREMENTAL_LIMIT of the first"
}

change_one_chunk() {
    sql -d "$DATABASE" -c "UPDATE metric_hist SET value = value + 1 WHERE ts >= '2025-01-20' AND ts < '2025-01-20 00:10'"
}
incremental_owner() { manager incremental "$DATABASE" backup bench full --incremental; }
incremental_superuser() {
    DB_USER=$MS5_SANDBOX_SUPERUSER POSTGRES_PASSWORD_TEST=$MS5_SANDBOX_SUPERUSER_PASSWORD incremental_owner
}
