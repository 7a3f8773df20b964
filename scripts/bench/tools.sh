# shellcheck shell=bash
# The tools that apply the same migrations: each one's file format, how it is started, and its ledger. Needs measure.sh.
#
# Each in its default configuration, on the same server, without TLS, its output in a file. What was left out of a default
# was left out in the other tool's favour, and is said below.

# write_migrations TOOL COUNT FOLDER: the same statements for all, in TOOL's own files.
write_migrations() {
    local tool=$1 count=$2 folder=$3 number digits width=${#2} rows i
    ((width >= 3)) || width=3
    mkdir -p "$folder"
    rows="(1, 'row 1', 0.5)"
    for ((i = 2; i <= 20; i++)); do rows+=", ($i, 'row $i', $i.5)"; done
    for ((number = 1; number <= count; number++)); do
        printf -v digits '%0*d' "$width" "$number"
        "write_$tool" "$folder" "$number" "$digits" "CREATE TABLE bench_$digits (
    id integer NOT NULL,
    name text NOT NULL,
    value double precision NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX bench_${digits}_name ON bench_$digits (name);
INSERT INTO bench_$digits (id, name, value) VALUES $rows;"
    done
}

# psql keeps no ledger: what it does is the least there is to do. One session, each file in a transaction.
write_psql() { # FOLDER NUMBER DIGITS SQL
    printf '%s\n' "$4" >"$1/$3_bench.sql"
    printf 'BEGIN;\n\\ir %s_bench.sql\nCOMMIT;\n' "$3" >>"$1/all.psql"
}
run_psql() { sql -d "$DATABASE" -f "$1/all.psql"; }

write_runner() { printf -- '-- %s - Bench %s\n%s\n' "$3" "$3" "$4" >"$1/$3_bench.sql"; }
run_runner() { runner "--migrations-dir=$1"; }
ledger_runner() { echo 'SELECT count(*) FROM public.migration_log WHERE success'; }

# By default it also runs pg_dump for a schema file after the last migration; no other tool does, so it is spared that.
write_dbmate() {
    printf -- '-- migrate:up\n%s\n\n-- migrate:down\nDROP TABLE bench_%s;\n' "$4" "$3" >"$1/$3_bench.sql"
}
run_dbmate() { (cd "$WORK" && DATABASE_URL=$BENCH_URL exec "${PROGRAM[dbmate]}" --no-dump-schema --migrations-dir "$1" migrate); }
ledger_dbmate() { echo 'SELECT count(*) FROM public.schema_migrations'; }

write_sqlx() { printf '%s\n' "$4" >"$1/$3_bench.sql"; }
run_sqlx() { (cd "$WORK" && DATABASE_URL=$BENCH_URL exec "${PROGRAM[sqlx]}" migrate run --source "$1"); }
ledger_sqlx() { echo 'SELECT count(*) FROM public._sqlx_migrations WHERE success'; }

write_refinery() { printf '%s\n' "$4" >"$1/V$2__bench.sql"; }
run_refinery() { (cd "$WORK" && exec "${PROGRAM[refinery]}" migrate -c "$WORK/refinery.toml" -p "$1"); }
ledger_refinery() { echo 'SELECT count(*) FROM public.refinery_schema_history'; }

# prepare_TOOL: what has to name the new database before TOOL starts. None is given a password among its arguments.
prepare_psql() { :; }
prepare_runner() { :; }
prepare_dbmate() { set_bench_url; }
prepare_sqlx() { set_bench_url; }
# The sandbox's passwords need no escaping.
set_bench_url() { BENCH_URL="postgres://$DB_USER:$POSTGRES_PASSWORD_TEST@$DB_HOST:$DB_PORT/$DATABASE?sslmode=disable"; }
prepare_refinery() {
    (
        umask 077
        cat >"$WORK/refinery.toml" <<END
[main]
db_type = "Postgres"
db_host = "$DB_HOST"
db_port = "$DB_PORT"
db_user = "$DB_USER"
db_pass = "$POSTGRES_PASSWORD_TEST"
db_name = "$DATABASE"
END
    )
}

# check_work TOOL COUNT: whether the tables, indexes, rows and the tool's ledger are there; says what is not.
check_work() {
    local tool=$1 count=$2 found expected="$2 tables, $2 indexes, $(($2 * 20)) rows"
    found=$(sql -d "$DATABASE" -At <<'SQL'
SELECT 'SELECT ' || quote_literal(format('%s tables, %s indexes, ',
           count(*) FILTER (WHERE relkind = 'r'), count(*) FILTER (WHERE relkind = 'i')))
       || ' || count(*) || '' rows'' FROM ('
       || coalesce(string_agg(format('SELECT id FROM public.%I', relname), ' UNION ALL ') FILTER (WHERE relkind = 'r'),
                   'SELECT 1 WHERE false')
       || ') t'
FROM pg_catalog.pg_class WHERE relnamespace = 'public'::pg_catalog.regnamespace AND relname ~ '^bench_\d+(_name)?$'
\gexec
SQL
    )
    if [[ $tool != psql ]]; then
        expected+=", $count in the ledger"
        found+=", $(sql -d "$DATABASE" -Atc "$("ledger_$tool")") in the ledger"
    fi
    [[ $found == "$expected" ]] || {
        echo "  expected $expected; found $found"
        return 1
    }
}
