# shellcheck shell=bash
# The runner beside psql on what it is for: the nine migrations on the field's database, in turn, each on a fresh copy.
# Needs measure.sh.

bench_field() {
    local round tool
    echo "== the field's database with $ROWS metric rows"
    sql -d postgres -c 'CREATE DATABASE field'
    sql -d field -v "metric_rows=$ROWS" -f tests/fixtures/field/schema.sql -f tests/fixtures/field/reference.sql \
        -f tests/fixtures/field/data.sql
    # Nobody may copy a database that somebody is in, and now and then the extension's launcher would be.
    as_superuser -d postgres -c 'ALTER DATABASE field ALLOW_CONNECTIONS false'
    echo "== the nine migrations, in turn, $RUNS rounds"
    for ((round = 0; round < RUNS; round++)); do
        for tool in psql runner; do
            fresh_database field
            timed "field.$tool" "field_by_$tool" || {
                show_output
                failed "$tool could not apply the nine migrations"
                return
            }
        done
    done
    awk -v psql="$(median field.psql)" -v runner="$(median field.runner)" \
        -v ratio="$(ratio field.runner field.psql)" 'BEGIN {
        printf "psql, one transaction a file:  median %.0f ms\nmigration-runner:              median %.0f ms\n", psql / 1000, runner / 1000
        printf "ratio:                         %.2f\n", ratio }'
}

# A psql for each file, as the old scripts did it.
field_by_psql() {
    local file
    for file in migrations/*.sql; do
        sql -d "$DATABASE" --single-transaction -f "$file" || return
    done
}

field_by_runner() { runner; }
