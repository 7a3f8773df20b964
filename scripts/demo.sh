#!/usr/bin/env bash
# The main job, for real: a private server, an MS5.0 database on plain PostgreSQL with more than a million rows, the
# migration to TimescaleDB and the way back, and every row counted before and after by psql and not by our own code.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

metric_rows=${MS5_DEMO_ROWS:-1200000}
work=$(mktemp -d)
finish() {
    rm -rf "$work"
    if [[ -n ${MS5_DEMO_KEEP:-} ]]; then
        echo "The server is kept: scripts/sandbox.sh psql --name=demo; scripts/sandbox.sh down --name=demo"
    else
        scripts/sandbox.sh down --name=demo >/dev/null
    fi
}

scripts/setup.sh
echo '== a private server'
scripts/sandbox.sh down --name=demo >/dev/null
trap finish EXIT
scripts/sandbox.sh up --name=demo
# The demo's own variables name the database; nothing of the caller's may lead elsewhere.
unset ENVIRONMENT DB_HOST DB_PORT DB_NAME DB_USER PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGPASSWORD PGOPTIONS
eval "$(scripts/sandbox.sh env --name=demo --environment=production)"
# Its pg_dump, which is as new as the server.
PATH=${MS5_SANDBOX_BIN:+$MS5_SANDBOX_BIN:}$PATH
sql() { scripts/sandbox.sh psql --name=demo --environment=production -X -q -v ON_ERROR_STOP=1 "$@"; }

echo "== an MS5.0 database as it is in the field, on plain PostgreSQL, with $metric_rows metric rows"
field=tests/fixtures/field
sql -v "metric_rows=$metric_rows" -f $field/schema.sql -f $field/reference.sql -f $field/data.sql

# One line a table: name, rows, and a hash of all rows that does not depend on their order.
count_tables() {
    sql -At -F ' ' <<'SQL'
SELECT format('SELECT %L, count(*), coalesce(sum(pg_catalog.hash_record_extended(t, 0)), 0) FROM factory_telemetry.%I t',
              relname, relname)
FROM pg_catalog.pg_class WHERE relnamespace = 'factory_telemetry'::pg_catalog.regnamespace AND relkind = 'r'
ORDER BY relname
\gexec
SQL
}
count_tables >"$work/before"

# A demo's machine may be small; in production the limits are the spec's.
echo '== is everything ready? and every row of the tables to be converted, counted and hashed'
export MS5_LOG_DIR=$work/logs MS5_BACKUP_DIR=$work/backups
scripts/pre-migration-validation.sh --environment=production --min-disk=2 --min-memory=1 --report="$work/pre.json"

echo '== a way back: a full backup, proven by restoring it into a scratch database'
scripts/backup-rollback-manager.sh --environment=production backup pre_migration full
scripts/backup-rollback-manager.sh --environment=production verify pre_migration --deep

echo '== the migration, behind the gate'
scripts/migration-runner.sh --environment=production --gate="$work/pre.json" --report="$work/run.json"

echo '== is everything there, and every row as it was?'
scripts/post-migration-validation.sh --environment=production --performance-test --against="$work/run.json"

echo '== counted by psql'
count_tables >"$work/after"
sql -At -F ' ' -c "SELECT hypertable_name, count(*) FROM timescaledb_information.chunks
                   WHERE hypertable_schema = 'factory_telemetry' GROUP BY 1" >"$work/chunks"
awk '
    FILENAME ~ /before$/ { rows[$1] = $2; hash[$1] = $3; next }
    FILENAME ~ /chunks$/ { chunks[$1] = $2; next }
    {
        tables++
        total_before += rows[$1]; total_after += $2
        same = rows[$1] == $2 && hash[$1] == $3
        if (!same) wrong++
        if ($1 in chunks || !same)
            line[++n] = sprintf("%-28s %12d %12d %8s   %s", $1, rows[$1], $2, chunks[$1], same ? "the same" : "DIFFERENT")
        if ($1 in chunks) hypertables++
        seen[$1] = 1
    }
    END {
        for (table in rows) if (!(table in seen)) { wrong++; print table ": GONE" }
        printf "%-28s %12s %12s %8s   %s\n", "hypertable", "rows before", "rows after", "chunks", "content"
        for (i = 1; i <= n; i++) print line[i]
        printf "%-28s %12d %12d\n", "all " tables " tables", total_before, total_after
        if (hypertables != 5) { print "expected 5 hypertables, found " hypertables + 0; exit 1 }
        if (wrong) { print wrong " tables differ"; exit 1 }
        print "5 hypertables; every row of every table is still there, unchanged"
    }' "$work/before" "$work/chunks" "$work/after"

echo '== one row is deleted behind its back: would it be noticed?'
sql -c 'DELETE FROM factory_telemetry.metric_hist WHERE id = (SELECT min(id) + 1000 FROM factory_telemetry.metric_hist)'
if scripts/post-migration-validation.sh --environment=production --against="$work/run.json" >"$work/red"; then
    echo 'FAILURE: post-validate passed over a lost row'
    exit 1
fi
grep -A3 -F '❌' "$work/red"

echo '== it was. The way back: the state before the migration'
scripts/backup-rollback-manager.sh --environment=production restore pre_migration --force
scripts/post-migration-validation.sh --environment=production --no-data-integrity
count_tables >"$work/back"
cmp "$work/before" "$work/back"
echo '== every row of every table is as it was before the migration: the demo ends well'
