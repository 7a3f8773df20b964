#!/usr/bin/env bash
# A private PostgreSQL with TimescaleDB, without root and without changing the system.
set -euo pipefail
shopt -s inherit_errexit

SANDBOX_SCRIPT=$(readlink -f "${BASH_SOURCE[0]}")
SANDBOX_MODULES=${SANDBOX_SCRIPT%/*}/sandbox
# shellcheck source=scripts/sandbox/common.sh
. "$SANDBOX_MODULES/common.sh"
# shellcheck source=scripts/sandbox/options.sh
. "$SANDBOX_MODULES/options.sh"
# shellcheck source=scripts/sandbox/debian.sh
. "$SANDBOX_MODULES/debian.sh"
# shellcheck source=scripts/sandbox/docker.sh
. "$SANDBOX_MODULES/docker.sh"
# shellcheck source=scripts/sandbox/engine.sh
. "$SANDBOX_MODULES/engine.sh"
# shellcheck source=scripts/sandbox/instance.sh
. "$SANDBOX_MODULES/instance.sh"
# shellcheck source=scripts/sandbox/pgbouncer.sh
. "$SANDBOX_MODULES/pgbouncer.sh"
# shellcheck source=scripts/sandbox/age.sh
. "$SANDBOX_MODULES/age.sh"
# shellcheck source=scripts/sandbox/chromium.sh
. "$SANDBOX_MODULES/chromium.sh"

usage() {
    cat <<'END'
usage: sandbox.sh COMMAND [options]

  up      [--name=N] [--engine=pg17|pg18] [--plain] [--set key=value]... [--owner-pid=PID]
                                    make the instance N (default: default) and start it; returns when it accepts connections
  down    [--name=N | --all]        stop it and remove its data
  stop    [--name=N] [--mode=fast|immediate]
                                    stop it, keep its data
  start   [--name=N]                start it again on the same port
  status                            a line for each instance
  env     [--name=N] [--environment=production|staging|development|test]
                                    exports for a shell: eval "$(scripts/sandbox.sh env)"
  psql    [--name=N] [--environment=E] [arguments of psql]
  bouncer [--name=N] [--set key=value]...
                                    start a PgBouncer in front of it, with these settings (pool_mode=transaction ...), and
                                    print the exports that lead through it; it ends with the instance
  prepare [--engine=E] [--plain]    only fetch and prepare the binaries
  prepare-bouncer                   the same for PgBouncer
  bin     [--engine=E] [--plain]    print the folder of the binaries, prepared if needed
  bin-age                           the same for age and age-keygen
  bin-chromium                      print the program of a Chromium without a window, prepared if needed
  help

  --plain            a server without the extension: the state before
  --set key=value    a setting of the server, or of the bouncer
  --owner-pid=PID    throwaway: fast instead of durable, and removed when process PID is gone

variables: MS5_SANDBOX=local|docker|debian   where the server comes from (default: the first of these that is there)
           MS5_SANDBOX_HOME                  folder of binaries and instances; without its debian/ newer packages are fetched
           MS5_SANDBOX_IMAGE                 the image for Docker
           MS5_SANDBOX_USER                  user the server runs as, where root calls
END
}

# --- commands ---------------------------------------------------------------------------------------------------------

check_environment() {
    environment_suffix "$ENVIRONMENT_WANTED" >/dev/null || usage_error "--environment: production, staging, development or test"
}

command_up() {
    parse "--name --engine --plain --set --owner-pid" "$@"
    local owner_start=''
    [[ -z $OWNER ]] || owner_start=$(process_start "$OWNER") || die "--owner-pid: there is no process $OWNER"
    sweep_instances
    lock_instance "$NAME"
    if load_instance "$NAME" && [[ -e ${INSTANCE[folder]}/complete ]]; then
        check_same_wish
        server_pid >/dev/null || start_server 0
    else
        if load_instance "$NAME"; then remove_instance; fi # one that was never completed
        find_engine "$ENGINE_WANTED" "$PLAIN"
        create_instance "$NAME" "$PLAIN" "$OWNER" "$owner_start" "${SETTINGS[@]}"
        start_server 1
    fi
    unlock
    describe_instance >&2
}

# An instance that is there is never quietly something else than what was asked for.
check_same_wish() {
    local hint="run '${0##*/} down --name=$NAME' first"
    [[ -z $ENGINE_WANTED || ${INSTANCE[pg]%%.*} == "${ENGINE_WANTED#pg}" ]] || die "sandbox $NAME is PostgreSQL ${INSTANCE[pg]}: $hint"
    ((!PLAIN || INSTANCE[plain])) || die "sandbox $NAME is not plain: $hint"
    [[ -z ${SETTINGS[*]} || ${SETTINGS[*]} == "${INSTANCE[settings]}" ]] || die "sandbox $NAME has other settings: $hint"
    [[ -z $OWNER || $OWNER == "${INSTANCE[owner]}" ]] || die "sandbox $NAME has another owner: $hint"
}

command_down() {
    parse "--name --all" "$@"
    local name names=("$NAME")
    ((!ALL)) || mapfile -t names < <(instance_names)
    for name in "${names[@]}"; do
        lock_instance "$name"
        if load_instance "$name"; then remove_instance; fi
        rm -rf "$(instance_folder "$name")"
        forget_instance_lock "$name"
        unlock
    done
}

command_stop() {
    parse "--name --mode" "$@"
    lock_instance "$NAME"
    need_instance "$NAME"
    if [[ $MODE == fast ]]; then stop_server INT QUIT KILL; else stop_server QUIT KILL; fi
    unlock
}

command_start() {
    parse "--name" "$@"
    lock_instance "$NAME"
    need_instance "$NAME"
    server_pid >/dev/null || start_server 0
    unlock
}

describe_instance() {
    printf '%s: %s PostgreSQL %s, TimescaleDB %s (%s), port %s, %s\n' "${INSTANCE[name]}" "${INSTANCE[source]}" \
        "${INSTANCE[pg]}" "${INSTANCE[timescaledb]}" "${INSTANCE[edition]}" "${INSTANCE[port]}" \
        "$(server_pid >/dev/null && echo running || echo stopped)"
}

command_status() {
    parse "" "$@"
    local name none=1
    while read -r name; do
        load_instance "$name" || continue
        describe_instance
        none=0
    done < <(instance_names)
    ((!none)) || echo "no sandbox"
}

command_env() {
    parse "--name --environment" "$@"
    check_environment
    need_instance "$NAME"
    local role
    role=$(environment_role "$ENVIRONMENT_WANTED")
    declare -A passwords
    read_state "${INSTANCE[folder]}/passwords" passwords
    export_line DB_HOST 127.0.0.1
    export_line DB_PORT "${INSTANCE[port]}"
    export_line DB_NAME "$(environment_database "$ENVIRONMENT_WANTED")"
    export_line DB_USER "$role"
    export_line "$(environment_password_variable "$ENVIRONMENT_WANTED")" "${passwords[$role]}"
    export_line MS5_SANDBOX_BIN "${INSTANCE[bin]}"
    export_line MS5_SANDBOX_DIR "${INSTANCE[folder]}"
    export_line MS5_SANDBOX_DATA "${INSTANCE[folder]}/data"
    export_line MS5_SANDBOX_SOCKET "${INSTANCE[socket]}"
    export_line MS5_SANDBOX_SUPERUSER postgres
    export_line MS5_SANDBOX_SUPERUSER_PASSWORD "${passwords[postgres]}"
    export_line MS5_SANDBOX_OS_USER "${INSTANCE[user]}"
}

command_psql() {
    parse "--name --environment --" "$@"
    check_environment
    need_instance "$NAME"
    local role
    role=$(environment_role "$ENVIRONMENT_WANTED")
    declare -A passwords
    read_state "${INSTANCE[folder]}/passwords" passwords
    # Each would win over what is set here.
    unset PGHOSTADDR PGSERVICE PGSSLMODE
    PGHOST=127.0.0.1 PGPORT=${INSTANCE[port]} PGUSER=$role PGDATABASE=$(environment_database "$ENVIRONMENT_WANTED") \
        PGPASSWORD=${passwords[$role]} exec "${INSTANCE[bin]}/psql" "${REST[@]}"
}

command_prepare() {
    parse "--engine --plain" "$@"
    find_engine "$ENGINE_WANTED" "$PLAIN"
}

command_bouncer() {
    parse "--name --set" "$@"
    prepare_bouncer
    lock_instance "$NAME"
    need_instance "$NAME"
    start_bouncer "${SETTINGS[@]}"
    unlock
    export_line DB_HOST 127.0.0.1
    export_line DB_PORT "$BOUNCER_PORT"
    export_line MS5_BOUNCER_DIR "$BOUNCER_FOLDER"
}

command_prepare-bouncer() {
    parse "" "$@"
    prepare_bouncer
}

command_bin() {
    command_prepare "$@"
    echo "${ENGINE[bin]}"
}

command_bin-age() {
    parse "" "$@"
    find_age
    echo "$AGE_BIN"
}

command_bin-chromium() {
    parse "" "$@"
    find_chromium
    echo "$CHROMIUM"
}

# Started by `up` for itself: ends instance NAME with this ID when its owner is gone.
command_watch() {
    need_instance "$1"
    watch_owner "${INSTANCE[owner]}" "${INSTANCE[owner_start]}" "${INSTANCE[folder]}/owned.$2"
    end_owned_instance "$1" "$2"
}

main() {
    local command=${1:-}
    (($# == 0)) || shift
    case $command in
        up | down | stop | start | status | env | psql | bouncer | prepare | prepare-bouncer | bin | bin-age | bin-chromium | watch)
            SANDBOX_HOME=$(cache_home)
            "command_$command" "$@"
            ;;
        help | --help | -h) usage ;;
        *)
            [[ -z $command ]] || say "unknown command: $command"
            usage >&2
            exit 2
            ;;
    esac
}

main "$@"
