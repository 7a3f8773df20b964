# shellcheck shell=bash
# What every part of the bench needs: the server, fresh databases, the clock, medians, and the list of failures.

FAILURES=()

# failed MESSAGE: said at once and again at the end, when the bench exits with 1. The other measurements go on.
failed() {
    FAILURES+=("$1")
    echo "FAILURE: $1"
}

verdict() {
    ((${#FAILURES[@]} == 0)) || {
        echo "== ${#FAILURES[@]} FAILED"
        printf 'FAILURE: %s\n' "${FAILURES[@]}"
        return 1
    }
    echo '== bench: all within their limits'
}

# start_server NAME: durable, as in production: with fsync. Its variables are exported, and nothing of the caller's may
# lead elsewhere.
start_server() {
    scripts/sandbox.sh down "--name=$1" >/dev/null
    scripts/sandbox.sh up "--name=$1"
    unset ENVIRONMENT DB_HOST DB_PORT DB_NAME DB_USER "${!PG@}"
    eval "$(scripts/sandbox.sh env "--name=$1" --environment=test)"
    # Not one of the tools may spend time on encryption.
    export PGSSLMODE=disable
}

# sql ARGUMENT...: the server's own psql. Only its own process sees these variables, and no password is an argument.
sql() {
    PGHOST=$DB_HOST PGPORT=$DB_PORT PGUSER=$DB_USER PGPASSWORD=$POSTGRES_PASSWORD_TEST \
        "$MS5_SANDBOX_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}

# as_superuser ARGUMENT...: the same as the superuser.
as_superuser() {
    PGHOST=$DB_HOST PGPORT=$DB_PORT PGUSER=$MS5_SANDBOX_SUPERUSER PGPASSWORD=$MS5_SANDBOX_SUPERUSER_PASSWORD \
        "$MS5_SANDBOX_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}

# fresh_database TEMPLATE: a new database, named by DATABASE. The ones before it stay until the server is removed: a file
# system that has just deleted thousands of files is slow at making new ones (ext4 passes over their inodes one by one, for
# minutes), and that would be most of what is measured.
DATABASES=0 DATABASE=''
fresh_database() {
    ((++DATABASES))
    DATABASE=bench_$DATABASES
    sql -d postgres -c "CREATE DATABASE $DATABASE TEMPLATE $1"
    settle
}

# A checkpoint, so that no run pays for what was written before it.
settle() { as_superuser -d postgres -c CHECKPOINT; }

# fresh_database_with_extension: for runs beside tools that know nothing of it, so that ours does not create it alone.
fresh_database_with_extension() {
    fresh_database template0 # the extension's launcher is now and then in template1, and then nobody may copy it
    sql -d "$DATABASE" -c 'SET client_min_messages = warning' -c 'CREATE EXTENSION timescaledb'
    settle
}

runner() {
    DB_NAME=$DATABASE MS5_LOG_DIR=$WORK/logs target/release/migration-runner --environment=test "$@"
}

# timed SERIES COMMAND...: the wall time of the whole process, in microseconds, as a line of $WORK/times/SERIES.
# What it prints is in $WORK/out. Fails if it fails.
timed() {
    local series=$1 begin end
    shift
    begin=${EPOCHREALTIME//[^0-9]/}
    "$@" >"$WORK/out" 2>&1 </dev/null || return
    end=${EPOCHREALTIME//[^0-9]/}
    mkdir -p "$WORK/times"
    echo $((end - begin)) >>"$WORK/times/$series"
}

show_output() { tail -n 10 "$WORK/out" | sed 's/^/  /'; }

# The median, least and most of a series, in microseconds.
middle() { sort -g | awk '{ t[NR] = $1 } END { print (t[int((NR + 1) / 2)] + t[int(NR / 2) + 1]) / 2 }'; }
median() { middle <"$WORK/times/$1"; }
least() { sort -n "$WORK/times/$1" | head -n 1; }
most() { sort -n "$WORK/times/$1" | tail -n 1; }

# ratio ONE OTHER: the median of the rounds' own ratios. What slows the whole machine down for a while is in both times of
# a round, so this stands when the medians move.
ratio() { paste "$WORK/times/$1" "$WORK/times/$2" | awk '{ print $1 / $2 }' | middle; }

# is EXPRESSION: arithmetic with fractions, as a condition.
is() { awk "BEGIN { exit !($1) }"; }
