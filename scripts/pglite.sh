#!/usr/bin/env bash
# TimescaleDB under the timescale licence without a Community server: in WebAssembly, served by node.
# One connection at a time (others wait), one database, no TLS, no COPY FROM STDIN: for SQL of a single session only.
set -euo pipefail
shopt -s inherit_errexit

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/sandbox/common.sh
. "$SCRIPTS/sandbox/common.sh"
# shellcheck source=scripts/sandbox/options.sh
. "$SCRIPTS/sandbox/options.sh"
# shellcheck source=scripts/sandbox/debian.sh
. "$SCRIPTS/sandbox/debian.sh"
# shellcheck source=scripts/sandbox/node.sh
. "$SCRIPTS/sandbox/node.sh"

START_SECONDS=120

usage() {
    cat <<'END'
usage: pglite.sh COMMAND [options]

  up    [--name=N] [--owner-pid=PID]   start the instance N (default: default); returns when it accepts connections;
                                       it ends with process PID
  down  [--name=N | --all]             stop it; its data was in memory only
  env   [--name=N]                     exports for a shell: eval "$(scripts/pglite.sh env)"
  prepare                              only fetch what it needs
  help

Needs node 18 or newer with npm, or else apt on Debian 12 or newer.
variables: MS5_SANDBOX_HOME   folder of packages and instances
END
}

# The socket server wants PGlite under its original name, as a peer; it is handed a database instead.
prepare() {
    find_node 18
    install_packages pglite
}

# --- instances ----------------------------------------------------------------------------------------------------------
# pglite/NAME: state (pid and its start), port (once it accepts connections), server.log

declare -A INSTANCE=()

instance_folder() { echo "$SANDBOX_HOME/pglite/$1"; }
lock_instance() { lock "$SANDBOX_HOME/locks/pglite-$1"; }

# Whether the instance is there and runs.
load_instance() {
    local folder
    folder=$(instance_folder "$1")
    [[ -e $folder/state && -e $folder/port ]] || return 1
    read_state "$folder/state" INSTANCE
    INSTANCE[port]=$(<"$folder/port")
    same_process "${INSTANCE[pid]}" "${INSTANCE[start]}"
}

start_instance() {
    local name=$1 owner=$2 owner_start=$3 folder packages deadline
    folder=$(instance_folder "$name")
    packages=$(packages_folder pglite)
    prepare
    rm -rf "$folder"
    mkdir -p "$folder"
    detach "$packages" "$folder/server.log" "${NODE[@]}" "$packages/server.mjs" "$folder" ${owner:+"$owner" "$owner_start"}
    INSTANCE=([pid]=$DETACHED_PID)
    INSTANCE[start]=$(process_start "$DETACHED_PID") || true
    write_state "$folder/state" INSTANCE
    deadline=$((SECONDS + START_SECONDS))
    while ((SECONDS < deadline)); do
        pause 0.05
        if load_instance "$name"; then return; fi
        process_start "$DETACHED_PID" >/dev/null || break
    done
    tail -n 20 "$folder/server.log" >&2
    die "PGlite did not start; see above"
}

# --- commands -----------------------------------------------------------------------------------------------------------

command_prepare() {
    parse "" "$@"
    prepare
}

command_up() {
    parse "--name --owner-pid" "$@"
    local owner_start=''
    [[ -z $OWNER ]] || owner_start=$(process_start "$OWNER") || die "--owner-pid: there is no process $OWNER"
    lock_instance "$NAME"
    load_instance "$NAME" || start_instance "$NAME" "$OWNER" "$owner_start"
    unlock
    say "$NAME: port ${INSTANCE[port]}, running"
}

command_down() {
    parse "--name --all" "$@"
    local names=("$NAME") name folder
    ((!ALL)) || mapfile -t names < <(cd "$SANDBOX_HOME/pglite" 2>/dev/null && ls)
    for name in "${names[@]}"; do
        lock_instance "$name"
        if load_instance "$name"; then kill -KILL "${INSTANCE[pid]}"; fi
        folder=$(instance_folder "$name")
        rm -rf "$folder" "$SANDBOX_HOME/locks/pglite-$name"
        unlock
    done
}

command_env() {
    parse "--name" "$@"
    local environment
    load_instance "$NAME" || die "no PGlite named $NAME runs: start it with '${0##*/} up --name=$NAME'"
    export_line DB_HOST 127.0.0.1
    export_line DB_PORT "${INSTANCE[port]}"
    export_line DB_NAME postgres
    export_line DB_USER postgres
    export_line PGSSLMODE disable
    for environment in PRODUCTION STAGING DEV TEST; do export_line "POSTGRES_PASSWORD_$environment" postgres; done
}

main() {
    local command=${1:-}
    (($# == 0)) || shift
    case $command in
        up | down | env | prepare)
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
