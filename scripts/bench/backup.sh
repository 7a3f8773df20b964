# shellcheck shell=bash
# backup-manager beside the ways that plants back up today, on one hypertable of 58 chunks: whole processes, each dump made
# durable by nobody but ours. Needs measure.sh.

# Targets: at most so many times what reading all rows takes; at most so much of pg_restore's time; memory in MiB.
BACKUP_LIMIT=2.2
CSV_LIMIT=2.5
# At most so many times what the same backup takes without encryption.
SEALED_LIMIT=1.3
RESTORE_LIMIT=0.65
BACKUP_MEMORY_MIB=256
# The ways to dump, as they are run below; the first is the least that any can take.
DUMPS=(limit old pigz fd_zstd fd_gzip)
# The ways to write CSV.
EXPORTS=(csv_old csv)
# The ways to restore. The second compares nothing: what two sessions are worth on this machine.
RESTORES=(pg_restore pg_restore_j2 ours)

bench_backup() {
    local round peer mib
    DATABASE=backups DUMP=$WORK_ON_DISK/dump
    export MS5_BACKUP_DIR=$WORK_ON_DISK/backups MS5_RESTORE_PASSWORD=$MS5_SANDBOX_SUPERUSER_PASSWORD
    mkdir -p "$DUMP"
    PIGZ=$(scripts/bench/peers.sh pigz) || {
        failed 'pigz could not be installed'
        return
    }
    AGE_BIN=$(scripts/sandbox.sh bin-age) || {
        failed 'age could not be installed'
        return
    }
    "$AGE_BIN/age-keygen" -o "$WORK/key" 2>/dev/null
    cc -O2 -o "$WORK/peak" scripts/bench/peak.c
    echo "== a hypertable of $BACKUP_ROWS rows in 58 chunks: full backups, in turn, $RUNS rounds"
    fill_hypertable "$BACKUP_ROWS"
    for ((round = 0; round < RUNS; round++)); do
        for peer in "${DUMPS[@]}" "${EXPORTS[@]}" sealed ours; do
            rm -rf "${DUMP:?}"/* "$MS5_BACKUP_DIR"
            if ! timed "backup.$peer" "dump_$peer"; then
                show_output
                failed "the dump $peer did not end well"
                return
            fi
        done
    done
    for peer in "${DUMPS[@]}" ours sealed "${EXPORTS[@]}"; do line_of "backup.$peer" "$(named "$peer")"; done
    for peer in "${DUMPS[@]:1}"; do
        is "$(ratio backup.ours "backup.$peer") < 1" || failed "a full backup takes longer than $(named "$peer")"
    done
    is "$(ratio backup.ours backup.limit) <= $BACKUP_LIMIT" ||
        failed "a full backup takes more than $BACKUP_LIMIT times what reading all rows takes"
    is "$(ratio backup.sealed backup.ours) <= $SEALED_LIMIT" ||
        failed "an encrypted backup takes more than $SEALED_LIMIT times the time without"
    echo "encrypted: $(ratio backup.sealed backup.ours) times the time without (at most $SEALED_LIMIT)"
    is "$(ratio backup.csv backup.limit) <= $CSV_LIMIT" ||
        failed "a backup of hypertables takes more than $CSV_LIMIT times what reading all rows takes"
    is "$(ratio backup.csv backup.csv_old) < 1" || failed "a backup of hypertables takes longer than $(named csv_old)"
    echo "where a backup's time goes: $(tr -d ' \n' <"$(echo "$MS5_BACKUP_DIR"/*/metadata.json)" | grep -o '"milliseconds":{[^}]*}')"

    echo "== restored into a new database, in turn, $RUNS rounds"
    rm -rf "${DUMP:?}"/*
    dump_fd_gzip >"$WORK/out" 2>&1
    as_superuser -d postgres -c 'CREATE DATABASE restored TEMPLATE template0'
    rows_of "$DATABASE" >"$WORK/rows.before"
    for ((round = 0; round < RUNS; round++)); do
        for peer in "${RESTORES[@]}"; do
            as_superuser -d postgres -c 'DROP DATABASE IF EXISTS restored'
            settle
            if ! timed "restore.$peer" "restore_$peer"; then
                show_output
                failed "the restore by $peer did not end well"
                return
            fi
            rows_of restored | cmp -s - "$WORK/rows.before" || failed "the rows restored by $peer are not those that were dumped"
        done
    done
    line_of restore.pg_restore 'pg_restore -j1'
    line_of restore.pg_restore_j2 'pg_restore in parts, rows and indexes -j2'
    line_of restore.ours 'backup-manager restore, all compared'
    echo "where a restore's time goes: $(grep -o '[A-Z][a-z ,]* ([0-9]* ms)' "$WORK/out" | tr '\n' ';')"
    is "$(ratio restore.ours restore.pg_restore) <= $RESTORE_LIMIT" ||
        failed "a restore takes more than $RESTORE_LIMIT of pg_restore -j1"
    for peer in backup csv restore; do
        mib=$(sort -n "$WORK/peak.$peer" | tail -n 1 | awk '{ printf "%.1f", $1 / 1024 }')
        echo "peak resident memory of a $peer: $mib MiB"
        is "$mib < $BACKUP_MEMORY_MIB" || failed "a $peer takes $BACKUP_MEMORY_MIB MiB or more"
    done
}

fill_hypertable() { # ROWS
    sql -d postgres -c "CREATE DATABASE $DATABASE TEMPLATE template0"
    sql -d "$DATABASE" -c 'SET client_min_messages = warning' -c 'CREATE EXTENSION timescaledb' \
        -c 'CREATE TABLE metric_hist (id bigint GENERATED ALWAYS AS IDENTITY, metric_def_id int NOT NULL,
                ts timestamptz NOT NULL, value double precision, quality text, PRIMARY KEY (id, ts))' \
        -c "SELECT create_hypertable('metric_hist', 'ts', chunk_time_interval => interval '1 day')" >/dev/null
    sql -d "$DATABASE" -v "rows=$1" <<'SQL'
INSERT INTO metric_hist (metric_def_id, ts, value, quality)
SELECT i % 200, '2025-01-01'::timestamptz + (i * (58.0 * 86400 - 1) / :rows) * interval '1 second', round((random() * 1000)::numeric, 3), 'good'
FROM generate_series(0, :rows - 1) i;
CREATE INDEX metric_hist_def ON metric_hist (metric_def_id, ts DESC);
VACUUM ANALYZE metric_hist;
SQL
    sql -d "$DATABASE" -At -c "SELECT format('COPY %I.%I TO STDOUT;', chunk_schema, chunk_name)
                               FROM timescaledb_information.chunks ORDER BY chunk_name" >"$WORK/chunks"
    (($(wc -l <"$WORK/chunks") == 58)) || failed "the hypertable has not 58 chunks"
    awk -v odd="$WORK/chunks.odd" -v even="$WORK/chunks.even" '{ print >(NR % 2 ? odd : even) }' "$WORK/chunks"
    settle
}

named() {
    case $1 in
        limit) echo 'COPY of all chunks to /dev/null, two sessions' ;;
        old) echo 'pg_dump, gzip, sha256sum, one after the other' ;;
        pigz) echo 'pg_dump into pigz' ;;
        fd_zstd) echo 'pg_dump -Fd -j2, zstd' ;;
        fd_gzip) echo 'pg_dump -Fd -j2, gzip' ;;
        csv_old) echo 'CSV by psql into gzip' ;;
        csv) echo 'backup-manager backup, hypertables as CSV' ;;
        sealed) echo 'backup-manager backup, encrypted' ;;
        *) echo 'backup-manager backup' ;;
    esac
}

# as_libpq PROGRAM ARGUMENT...: one of the server's own, as the owner of the database.
as_libpq() {
    PGHOST=$DB_HOST PGPORT=$DB_PORT PGUSER=$DB_USER PGPASSWORD=$POSTGRES_PASSWORD_TEST PGDATABASE=$DATABASE \
        "$MS5_SANDBOX_BIN/$1" "${@:2}"
}

dump_limit() {
    sql -d "$DATABASE" -f "$WORK/chunks.odd" >/dev/null &
    sql -d "$DATABASE" -f "$WORK/chunks.even" >/dev/null
    wait $!
}
dump_old() {
    as_libpq pg_dump --file="$DUMP/full_database.sql" && gzip "$DUMP/full_database.sql" &&
        sha256sum "$DUMP/full_database.sql.gz"
}
dump_pigz() { as_libpq pg_dump | "$PIGZ" >"$DUMP/full_database.sql.gz"; }
dump_fd_zstd() { as_libpq pg_dump -Fd -j2 --compress=zstd --file="$DUMP/folder"; }
dump_fd_gzip() { as_libpq pg_dump -Fd -j2 --file="$DUMP/folder"; }
dump_csv_old() {
    sql -d "$DATABASE" -c '\copy (SELECT * FROM metric_hist) TO STDOUT WITH (FORMAT csv, HEADER)' | gzip >"$DUMP/metric_hist.csv.gz"
}
dump_csv() { manager csv "$DATABASE" backup bench hypertables; }
dump_sealed() { manager sealed "$DATABASE" backup bench full "--encrypt-to=$("$AGE_BIN/age-keygen" -y "$WORK/key")"; }
dump_ours() { manager backup "$DATABASE" backup bench full; }

# manager SERIES DATABASE ARGUMENT...: its peak memory is a line of $WORK/peak.SERIES.
manager() {
    PATH=$MS5_SANDBOX_BIN:$PATH DB_NAME=$2 MS5_LOG_DIR=$WORK/logs "$WORK/peak" "$WORK/peak.kib" \
        target/release/backup-manager --environment=test "${@:3}" && cat "$WORK/peak.kib" >>"$WORK/peak.$1"
}

# The only backup that is there, by its full name: it is of another database.
restore_ours() {
    local name
    name=$(basename "$(dirname "$(echo "$MS5_BACKUP_DIR"/*/metadata.json)")")
    manager restore restored restore "$name" --other-database "--restore-user=$MS5_SANDBOX_SUPERUSER"
}

restore_pg_restore() { around_restore from_dump -j1; }
restore_pg_restore_j2() { around_restore parts_from_dump; }
from_dump() { # OPTION...
    PGHOST=$DB_HOST PGPORT=$DB_PORT PGUSER=$MS5_SANDBOX_SUPERUSER PGPASSWORD=$MS5_SANDBOX_SUPERUSER_PASSWORD \
        "$MS5_SANDBOX_BIN/pg_restore" --no-owner "$@" --dbname=restored "$DUMP/folder"
}
# TimescaleDB's own tables refer to each other, so that -j2 alone fails on them.
parts_from_dump() {
    local own=(_timescaledb_catalog _timescaledb_config)
    from_dump --section=pre-data && from_dump --section=data "${own[@]/#/--schema=}" &&
        from_dump --section=data -j2 "${own[@]/#/--exclude-schema=}" && from_dump --section=post-data -j2
}

# As its documentation says: the new database is told of the restore before and after.
around_restore() { # COMMAND ARGUMENT...
    as_superuser -d postgres -c "CREATE DATABASE restored TEMPLATE template0 OWNER $DB_USER" || return
    as_superuser -d restored -c 'SET client_min_messages = warning' -c 'CREATE EXTENSION timescaledb' \
        -c 'SELECT timescaledb_pre_restore()' || return
    "$@" || return
    as_superuser -d restored -c 'SELECT timescaledb_post_restore()'
}

rows_of() {
    as_superuser -d "$1" -At -c 'SELECT count(*), sum(hash_record_extended(m, 0)) FROM metric_hist m'
}

line_of() { # SERIES NAME
    local to=backup.limit of='the limit'
    [[ $1 == backup.* ]] || to=restore.pg_restore of='pg_restore -j1'
    awk -v name="$2" -v median="$(median "$1")" -v least="$(least "$1")" -v most="$(most "$1")" \
        -v ratio="$(ratio "$1" "$to")" -v of="$of" 'BEGIN {
        printf "%-50s median %6.2f s, %.2f to %.2f, %.2f times %s", name ":", median / 1e6, least / 1e6, most / 1e6, ratio, of
        print "" }'
}
