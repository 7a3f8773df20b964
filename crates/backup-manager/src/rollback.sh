#!/bin/sh
# MS5.0 Rollback Script
@VALUES@
# Restores the backup into a new database beside the old one and swaps their names last. Until then the old one is in service.
# Needs sh, gunzip, sha256sum, age where the backup is encrypted, and psql (of the server's version or newer, or in the container). The password comes from the
# environment: the first that is set of the variables that PASSWORD_VARIABLES names, then the password file. None stands in here.
set -u

# MS5_EXIT=classic: every failure is 1, as the old scripts had it.
leave() {
    [ "$1" = 0 ] || [ "${MS5_EXIT:-}" != classic ] || exit 1
    exit "$1"
}
usage() {
    echo "usage: rollback.sh [--force] [--identity=KEY_FILE]" >&2
    echo "  --force     replace $DB_NAME where it holds data; start the database's container where it is down" >&2
    echo "  --identity  the key that opens an encrypted backup (or MS5_IDENTITY)" >&2
}

FORCE=0
IDENTITY=${MS5_IDENTITY:-}
while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
    --force) FORCE=1 ;;
    --identity | --identity=*)
        case $word in
        *=*) IDENTITY=${word#*=} ;;
        *)
            IDENTITY=${1:-}
            [ $# -eq 0 ] || shift
            ;;
        esac
        case $IDENTITY in
        '' | -*)
            echo "rollback.sh: --identity wants a value: --identity=KEY_FILE" >&2
            usage
            leave 2
            ;;
        esac
        ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        echo "rollback.sh: unknown argument: $word" >&2
        usage
        leave 2
        ;;
    esac
done

LOG=$(cd "$(dirname "$0")" && pwd)/rollback.log
say() {
    line="[$(date '+%Y-%m-%d %H:%M:%S')] [$1] $2"
    printf '%s\n' "$line"
    (umask 077 && printf '%s\n' "$line" >>"$LOG") 2>/dev/null
}
die() {
    code=$1
    shift
    for text in "$@"; do say ERROR "$text"; done
    leave "$code"
}

say INFO "Rolling back $DB_NAME of $ENVIRONMENT on $DB_HOST:$DB_PORT to the backup $BACKUP_NAME of $BACKUP_TIME"
# Whoever has another environment in mind means another script.
case $CALLER_ENVIRONMENT in
'' | "$ENVIRONMENT") ;;
*)
    die 3 "ENVIRONMENT is $CALLER_ENVIRONMENT, and this script is for $ENVIRONMENT" "nothing was touched" \
        "Next: look for the one of $CALLER_ENVIRONMENT in rollback/ and in backups/rollback_points/" \
        "Next: or, where $ENVIRONMENT is meant, call this with ENVIRONMENT=$ENVIRONMENT"
    ;;
esac

# Nothing of the caller's libpq but what is said here.
password=
for variable in $PASSWORD_VARIABLES; do
    [ -n "$password" ] || eval "password=\${$variable:-}"
done
for variable in PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGSERVICE; do
    eval "value=\${$variable:-}"
    [ -z "$value" ] || say WARN "$variable is set and is ignored: this script is for $DB_NAME on $DB_HOST:$DB_PORT"
done
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS PGPASSWORD PGTARGETSESSIONATTRS PGCLIENTENCODING PGDATESTYLE PGTZ
if [ -n "$password" ]; then
    PGPASSWORD=$password
    export PGPASSWORD
fi
PGHOST=$DB_HOST PGPORT=$DB_PORT PGUSER=$DB_USER PGAPPNAME=rollback.sh
export PGHOST PGPORT PGUSER PGAPPNAME

# psql is this machine's, else the container's. The database goes by the environment: as an argument, a name with = in it
# would be taken for a connection string.
if ! command -v psql >/dev/null 2>&1; then
    # Cron knows few folders. The last one is of the newest version.
    for folder in /usr/lib/postgresql/[1-9][0-9]/bin /usr/pgsql-[1-9][0-9]/bin; do
        [ ! -x "$folder/psql" ] || PATH=$PATH:$folder
    done
fi
if command -v psql >/dev/null 2>&1; then
    run_psql() { PGDATABASE=$1 && shift && PGDATABASE=$PGDATABASE psql -X -w -q -v ON_ERROR_STOP=1 "$@"; }
elif command -v docker >/dev/null 2>&1; then
    run_psql() {
        PGDATABASE=$1 && shift && export PGDATABASE
        docker exec -i -e PGPASSWORD -e PGDATABASE -e PGUSER "$CONTAINER" psql -X -w -q -v ON_ERROR_STOP=1 "$@"
    }
else
    die 3 "psql is not here, and neither is Docker" "Next: install postgresql-client, or put its folder on PATH"
fi
case $BACKUP_FILE in
*.age) tools="gunzip sha256sum age" ;;
*) tools="gunzip sha256sum" ;;
esac
for tool in $tools; do
    command -v "$tool" >/dev/null 2>&1 || die 3 "$tool is not here" "nothing was touched" "Next: install $tool, or put its folder on PATH"
done

# The backup's text.
decrypt() {
    case $BACKUP_FILE in
    *.age) age -d -i "$IDENTITY" "$BACKUP_FILE" ;;
    *) cat "$BACKUP_FILE" ;;
    esac
}
unpack() {
    case ${BACKUP_FILE%.age} in
    *.gz) decrypt | gunzip -c ;;
    *) decrypt ;;
    esac
}

[ -r "$BACKUP_FILE" ] || die 3 "the backup is not there: $BACKUP_FILE" "nothing was touched"
found=$(sha256sum <"$BACKUP_FILE") || die 3 "cannot read $BACKUP_FILE" "nothing was touched"
[ "${found%% *}" = "$BACKUP_SHA256" ] || die 1 "the backup is damaged: its checksum differs" "nothing was touched"
say INFO "The backup's checksum fits"
case $BACKUP_FILE in
*.age)
    [ -n "$IDENTITY" ] || die 3 "the backup is encrypted" "nothing was touched" "Next: give the key: rollback.sh --identity=KEY_FILE"
    # Its first bytes tell whether the key is the right one.
    [ "$(unpack 2>>"$LOG" | head -c 2)" = "--" ] || die 3 "the key in $IDENTITY does not open the backup (see $LOG)" "nothing was touched"
    ;;
esac

# In many plants the database is one of the services that the runbook has stopped. One that answers needs no start.
if ! answer=$(LC_ALL=C && export LC_ALL && run_psql "$MAINTENANCE_DB" -At -c 'SELECT 1' 2>&1); then
    case $answer in
    *'no password supplied'* | *authentication\ failed* | *'no pg_hba.conf entry'* | *'does not exist'*)
        die 3 "cannot log in as $DB_USER: $answer" "nothing was touched" \
            "Next: put the password of $DB_USER into one of these variables, then call this again: $PASSWORD_VARIABLES"
        ;;
    esac
    [ -f "$COMPOSE_FILE" ] || COMPOSE_FILE=$INSTALLATION/$COMPOSE_FILE
    start="docker compose -f $COMPOSE_FILE up -d postgres"
    if command -v docker >/dev/null 2>&1 && [ -f "$COMPOSE_FILE" ]; then
        if [ "$FORCE" = 1 ]; then
            say WARN "The database does not answer; starting it: $start"
            docker compose -f "$COMPOSE_FILE" up -d postgres || die 4 "it cannot be started" "nothing was touched"
            tries=0
            until run_psql "$MAINTENANCE_DB" -At -c 'SELECT 1' >/dev/null 2>&1; do
                tries=$((tries + 1))
                [ "$tries" -lt 60 ] || die 4 "the database does not answer after 60 s" "nothing was touched"
                sleep 1
            done
        else
            die 4 "cannot connect: $answer" "nothing was touched" "Next: $start" "Next: or call this with --force, which does so"
        fi
    else
        die 4 "cannot connect: $answer" "nothing was touched" "Next: start the database, then call this again"
    fi
fi

# A value goes into SQL as psql's variable, so that no name can be anything but a name.
ask() {
    run_psql "$MAINTENANCE_DB" -At -v db="$DB_NAME" -v new="$NEW" -v kept="$KEPT" -v owner="$OWNER" "$@" -f -
}
# Half-made databases of this one carry its lock's number, so whoever has the lock knows that they are dead.
HALF="ms5_rollback_${LOCK_KEY#-}_"
NEW="$HALF$(date -u '+%Y%m%d_%H%M%S')_$$"
KEPT=

# The lock that backup-manager's restore takes too, held by a session that ends when this script does, however it does: then
# nobody can write to it any more.
hold=$(mktemp -d) || die 3 "cannot make a temporary folder"
mkfifo "$hold/in" || die 3 "cannot make a pipe in $hold"
{
    run_psql "$MAINTENANCE_DB" -At -f - <"$hold/in" >"$hold/out" 2>"$hold/why"
    [ ! -d "$hold" ] || echo gone >>"$hold/out"
} &
exec 9>"$hold/in"
printf '%s\n' "SET idle_session_timeout = 0; SET lock_timeout = '10s'; SELECT pg_advisory_lock($LOCK_KEY);" '\echo held' >&9
until grep -q -e held -e gone "$hold/out" 2>/dev/null; do sleep 0.1; done
held=$(cat "$hold/out") why=$(cat "$hold/why")
rm -rf "$hold"
case $held in
*gone*) die 4 "another restore of $DB_NAME is going on, or its lock cannot be asked for: $why" "nothing was touched" ;;
esac
# An advisory lock is one database's, and a restore may be at work from another maintenance database: it is looked at those of all.
tries=0
until holders=$(echo "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND classid::int8 = ('$LOCK_KEY'::int8 >> 32) & 4294967295 AND objid::int8 = '$LOCK_KEY'::int8 & 4294967295;" | ask) ||
    die 4 "cannot ask who holds the lock" "nothing was touched" && [ "$holders" = 1 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 20 ] || die 4 "another restore of $DB_NAME is going on, from another database than $MAINTENANCE_DB" "nothing was touched"
    sleep 0.5
done

there=$(echo "SELECT count(*) FROM pg_database WHERE datname = :'db';" | ask) || die 4 "cannot ask for the databases" "nothing was touched"
if [ "$there" = 1 ] && [ "$FORCE" = 0 ]; then
    tables=$(echo "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|_timescaledb_)' AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');" |
        run_psql "$DB_NAME" -At -f -) || die 4 "cannot look into $DB_NAME" "nothing was touched"
    [ "$tables" = 0 ] || die 1 "$DB_NAME holds data: $tables tables" "nothing was touched" "Next: replace it (it is kept beside): rollback.sh --force"
fi

# The lock of the database itself, which runs, backups and restores hold: who has it is not ended in the midst of his work.
workers() {
    echo "SELECT string_agg(format('%s (pid %s, since %s)', coalesce(nullif(application_name, ''), 'a session'), l.pid, to_char(backend_start, 'YYYY-MM-DD HH24:MI')), ', ') FROM pg_locks l JOIN pg_database d ON d.oid = l.database JOIN pg_stat_activity USING (pid) WHERE d.datname = :'db' AND locktype = 'advisory' AND objsubid = 1 AND granted AND classid::int8 = ($RUN_LOCK_KEY >> 32) & 4294967295 AND objid::int8 = $RUN_LOCK_KEY & 4294967295;" | ask
}
working=$(workers) || die 4 "cannot ask who works on $DB_NAME" "nothing was touched"
[ -z "$working" ] || die 4 "another run holds the lock of $DB_NAME: $working" "nothing was touched" \
    "Next: wait for it to end, or stop it where it was started" \
    "Next: where its machine is gone, end what it has left here: SELECT pg_terminate_backend(PID);"

# The half-made database goes, whatever ends this.
unwind() {
    trap - EXIT HUP INT TERM
    echo "DROP DATABASE IF EXISTS :\"new\" WITH (FORCE);" | ask >/dev/null 2>&1
    leave "$1"
}
stopped() {
    say ERROR "stopped by a signal; $DB_NAME is as it was"
    unwind "$1"
}
trap 'unwind $?' EXIT
trap 'stopped 129' HUP
trap 'stopped 130' INT
trap 'stopped 143' TERM

# What a killed rollback has left goes.
echo "SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE);', datname) FROM pg_database WHERE starts_with(datname::text, :'half') \\gexec" |
    ask -v half="$HALF" -v ON_ERROR_STOP=0 >>"$LOG" 2>&1
echo "CREATE DATABASE :\"new\" OWNER :\"owner\" $CREATE_OPTIONS;" | ask >>"$LOG" 2>&1 ||
    die 1 "cannot make the new database $NEW (see $LOG)" "$DB_NAME is as it was"
say INFO "Restoring into $NEW; $DB_NAME stays in service until that is whole"
# The script's last member compares the rows of every table with what was written, and a file that is cut off is refused.
if ! unpack 2>>"$LOG" | run_psql "$NEW" -o /dev/null -f - >>"$LOG" 2>&1; then
    die 1 "the restore has failed (see $LOG)" "$(tail -n 3 "$LOG")" "$DB_NAME is as it was"
fi
printf '%s\n' "SET default_transaction_read_only = off; SELECT set_config('session_replication_role', 'replica', false) FROM pg_roles WHERE rolname = current_user AND rolsuper; CREATE TABLE IF NOT EXISTS public.migration_restores (backup_name text NOT NULL, backup_created_at timestamptz, restored_at timestamptz NOT NULL DEFAULT now(), restored_by text NOT NULL DEFAULT session_user);
ALTER TABLE public.migration_restores OWNER TO :\"owner\";
INSERT INTO public.migration_restores (backup_name, backup_created_at) VALUES (:'backup', :'made');" |
    run_psql "$NEW" -v owner="$OWNER" -v backup="$BACKUP_NAME" -v made="$BACKUP_TIME" -f - >>"$LOG" 2>&1 ||
    say WARN "the database could not be marked as restored (see $LOG)"

# ALTER DATABASE ... RENAME locks the database and waits five seconds for its sessions to end; they are ended meanwhile.
working=$(workers) || die 1 "cannot ask who works on $DB_NAME" "$DB_NAME is as it was"
[ -z "$working" ] || die 1 "a run has begun meanwhile: $working" "$DB_NAME is as it was" "Next: wait for it to end, then call this again"
# From here on there is nothing to unwind: a signal that is heard behind the COMMIT would have us say that all is as it was.
trap '' HUP INT TERM
say INFO "Swapping the names"
if [ "$there" = 1 ]; then
    # Where one of this second is there already, a later second is taken.
    KEPT=$(echo "SELECT name FROM (SELECT :'prefix' || to_char(now() AT TIME ZONE 'UTC' + make_interval(secs => i), 'YYYYMMDD_HH24MISS') AS name FROM generate_series(0, 3600) i) AS names WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) ORDER BY name LIMIT 1;" |
        ask -v prefix="$KEPT_PREFIX") || die 1 "cannot ask for the databases" "$DB_NAME is as it was"
    swap="BEGIN; ALTER DATABASE :\"db\" RENAME TO :\"kept\"; ALTER DATABASE :\"kept\" ALLOW_CONNECTIONS false; ALTER DATABASE :\"new\" RENAME TO :\"db\"; COMMIT;"
else
    swap="ALTER DATABASE :\"new\" RENAME TO :\"db\";"
fi
# Whether the new database has its name, asked once the connection was lost before the COMMIT was answered.
swapped() {
    turns=0
    until left=$(echo "SELECT count(*) FROM pg_database WHERE datname = :'new';" | ask 2>>"$LOG"); do
        turns=$((turns + 1))
        [ "$turns" -lt 30 ] || die 5 "the connection was lost while the names were swapped, and what became of it cannot be asked" \
            "Next: look for $NEW in pg_database: where it is still there, $DB_NAME is as it was, else it is restored"
        sleep 1
    done
    [ "$left" = 0 ]
}
tries=0
while :; do
    (
        turns=0
        while [ "$turns" -lt 40 ]; do
            echo "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (:'db', :'new') AND pid <> pg_backend_pid();" |
                ask >/dev/null 2>&1
            turns=$((turns + 1))
            sleep 0.1
        done
    ) &
    ender=$!
    if echo "$swap" | ask >>"$LOG" 2>&1; then
        kill "$ender" 2>/dev/null
        wait "$ender" 2>/dev/null
        break
    fi
    kill "$ender" 2>/dev/null
    wait "$ender" 2>/dev/null
    ! swapped || break
    tries=$((tries + 1))
    [ "$tries" -lt 5 ] || die 1 "the names cannot be swapped: sessions do not end (see $LOG)" "$DB_NAME is as it was"
done
trap - EXIT HUP INT TERM

echo "SELECT format('SELECT %s();', p.oid::regproc) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname ~ '^_timescaledb_' AND p.proname = 'start_background_workers' AND p.pronargs = 0 ORDER BY n.nspname LIMIT 1 \\gexec" |
    run_psql "$DB_NAME" -At -f - >>"$LOG" 2>&1 || say WARN "TimescaleDB's workers could not be started (see $LOG)"
if [ "$there" = 1 ]; then
    say INFO "The replaced database is kept, closed, as $KEPT"
    echo "SELECT format('  to look into it: ALTER DATABASE %I ALLOW_CONNECTIONS true;', :'kept') UNION ALL SELECT format('  to drop it:      DROP DATABASE %I;', :'kept');" |
        ask 2>>"$LOG" | while IFS= read -r line; do say INFO "$line"; done
fi
grep -h 'alter_job(' "$LOG" | tail -n 1 | while read -r line; do
    say WARN "Background jobs are unscheduled. To let them run again: $line"
done
say INFO "Now: ANALYZE; in it: statistics are in no backup, and plans are poor without"
say SUCCESS "✅ Rolled back: $DB_NAME is $BACKUP_NAME again"
