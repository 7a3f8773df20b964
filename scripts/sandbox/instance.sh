# shellcheck shell=bash
# Instances: a data folder made from a template, its server, and who ends it. Needs common.sh, docker.sh, engine.sh and,
# at its end, pgbouncer.sh.
#
# instances/NAME/state       what the instance is: engine, port, owner ... (INSTANCE below)
# instances/NAME/passwords   a random one for each role
# instances/NAME/data        the server's data folder, with server.log
# instances/NAME/complete    there once all of this is
# instances/NAME/owned.ID    there while a watchdog has something to watch

ENVIRONMENTS=(production staging development test)
TEMPLATE_RECIPE=2
START_SECONDS=300

declare -A INSTANCE=()

instance_folder() { echo "$SANDBOX_HOME/instances/$1"; }

instance_names() {
    local folder
    for folder in "$SANDBOX_HOME"/instances/*/; do
        [[ ! -e $folder/state ]] || basename "$folder"
    done
}

load_instance() {
    local folder
    folder=$(instance_folder "$1")
    read_state "$folder/state" INSTANCE 2>/dev/null || return 1 # also where it is being removed
    INSTANCE[folder]=$folder
}

need_instance() { load_instance "$1" || die "no sandbox named $1: start it with '${0##*/} up --name=$1'"; }

save_instance() { write_state "${INSTANCE[folder]}/state" INSTANCE; }

# --- names of the tools' contract, by environment -----------------------------------------------------------------------

environment_suffix() {
    case $1 in
        production) echo '' ;;
        staging) echo _staging ;;
        development) echo _dev ;;
        test) echo _test ;;
        *) return 1 ;;
    esac
}

environment_database() { echo "factory_telemetry$(environment_suffix "$1")"; }

environment_role() {
    local suffix
    suffix=$(environment_suffix "$1")
    echo "ms5_user${suffix:-_production}"
}

environment_password_variable() {
    local suffix
    suffix=$(environment_suffix "$1")
    suffix=${suffix:-_production}
    echo "POSTGRES_PASSWORD${suffix^^}"
}

# --- the template: a data folder with roles and databases, copied for each instance -------------------------------------

template_folder() {
    local user=$1 key
    key=$(cksum <<<"${ENGINE[bin]} $user" | cut -d' ' -f1)
    echo "$SANDBOX_HOME/templates/pg${ENGINE[pg]}-$key-$TEMPLATE_RECIPE"
}

# Its roles have no password, so nobody can log in to a copy before it is given some.
make_template() {
    local user=$1 final=$2 work=$2.work ahead
    [[ ! -e $final/complete ]] || return 0
    lock "$final.lock"
    if [[ ! -e $final/complete ]]; then
        rm -rf "$work" "$final"
        mkdir -p "$work/data"
        give_to "$user" "$work/data"
        link_zoneinfo "$work"
        init_database "$user" "$work"
        template_sql | single_user "$user" "$work/data"
        # The server makes WAL files ahead; the copies are quicker without.
        mapfile -t ahead < <(find "$work/data/pg_wal" -maxdepth 1 -type f | sort | tail -n +2)
        rm -f "${ahead[@]}"
        : >"$work/complete"
        mv "$work" "$final"
    fi
    unlock
}

init_database() {
    local user=$1 work=$2 locale=(--locale=C.UTF-8)
    # The provider that needs no locale of the system, where there is one.
    ((${ENGINE[pg]%%.*} < 17)) || locale=(--locale=C --locale-provider=builtin --builtin-locale=C.UTF-8)
    # initdb would want a password for scram at once.
    as_user "$user" "${ENGINE[bin]}/initdb" -D "$work/data" -U postgres -E UTF8 "${locale[@]}" --auth=reject --no-sync \
        --no-instructions >"$work/initdb.log" 2>&1 || {
        sed 's/^/  /' "$work/initdb.log" >&2
        die "initdb failed; see above"
    }
    sed -i 's/ reject$/ scram-sha-256/' "$work/data/pg_hba.conf"
}

template_sql() {
    local environment role
    for environment in "${ENVIRONMENTS[@]}"; do
        role=$(environment_role "$environment")
        echo "CREATE ROLE $role LOGIN CREATEDB"
        echo "CREATE DATABASE $(environment_database "$environment") OWNER $role"
    done
}

# single_user USER DATA: runs SQL, a statement a line, without a server that anybody could connect to.
single_user() {
    local output
    output=$(as_user "$1" "${ENGINE[bin]}/postgres" --single -D "$2" -c exit_on_error=on -c fsync=off \
        -c shared_preload_libraries= -c log_statement=none -c log_min_error_statement=panic postgres 2>&1) || {
        printf '%s\n' "$output" >&2
        die "could not set up $2; see above"
    }
}

give_to() {
    local user=$1
    shift
    ((EUID != 0)) || chown -R "$user:" "$@"
    chmod 700 "$@"
}

# Where the system has no time zone data, the server looks for it beside its data folder.
link_zoneinfo() { [[ -z ${ENGINE[zoneinfo]:-} ]] || ln -sfn "${ENGINE[zoneinfo]}" "$1/zoneinfo"; }

# --- making one -------------------------------------------------------------------------------------------------------

# create_instance NAME PLAIN OWNER OWNER_START SETTING...: from ENGINE. The state is written first, so that whatever
# happens from then on, the folders are known and can be removed.
create_instance() {
    local name=$1 plain=$2 owner=$3 owner_start=$4 folder user template key
    shift 4
    user=$(server_user)
    template=$(template_folder "$user")
    folder=$(instance_folder "$name")
    as_user "$user" test -x "$SANDBOX_HOME" || die "user $user cannot enter $SANDBOX_HOME: set MS5_SANDBOX_HOME to a folder that others can enter"
    make_template "$user" "$template"

    INSTANCE=([name]=$name [folder]=$folder [plain]=$plain [owner]=$owner [owner_start]=$owner_start [user]=$user [settings]="$*")
    for key in source image bin pg timescaledb edition; do INSTANCE[$key]=${ENGINE[$key]:-}; done
    INSTANCE[id]=$(random_word 6)
    INSTANCE[port]=$(free_port)
    # Short, for a socket's path may have 107 bytes.
    INSTANCE[socket]=/tmp/ms5.${INSTANCE[id]}
    rm -rf "$folder"
    mkdir -p "$folder"
    save_instance
    [[ -z $owner ]] || start_watchdog

    make_socket_folder
    cp -a --reflink=auto "$template/data" "$folder/data"
    link_zoneinfo "$folder"
    set_passwords
    write_settings "$@"
    : >"$folder/complete"
}

# Fails where somebody else was there first.
make_socket_folder() {
    mkdir -m 700 "${INSTANCE[socket]}"
    give_to "${INSTANCE[user]}" "${INSTANCE[socket]}"
}

set_passwords() {
    local environment role
    declare -A passwords=([postgres]=$(random_word))
    for environment in "${ENVIRONMENTS[@]}"; do passwords[$(environment_role "$environment")]=$(random_word); done
    write_state "${INSTANCE[folder]}/passwords" passwords
    for role in "${!passwords[@]}"; do echo "ALTER ROLE $role PASSWORD '${passwords[$role]}'"; done |
        single_user "${INSTANCE[user]}" "${INSTANCE[folder]}/data"
}

write_settings() {
    local setting
    {
        cat <<'END'
listen_addresses = '127.0.0.1'
timezone = 'Etc/UTC'
log_timezone = 'Etc/UTC'
password_encryption = 'scram-sha-256'
jit = off
max_connections = 200
max_locks_per_transaction = 256
max_worker_processes = 128
# Not /dev/shm: a container's is small, and a killed server would leave its segments there.
dynamic_shared_memory_type = mmap
END
        if [[ ${INSTANCE[timescaledb]} != - ]]; then
            echo "shared_preload_libraries = 'timescaledb'"
            echo "timescaledb.telemetry_level = off"
            echo "timescaledb.max_background_workers = 64"
        fi
        if [[ -n ${INSTANCE[owner]} ]]; then
            echo "fsync = off"
            echo "synchronous_commit = off"
            echo "full_page_writes = off"
        fi
        for setting in "$@"; do printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}"; done
        echo "include = 'sandbox_address.conf'"
    } >"${INSTANCE[folder]}/data/sandbox.conf"
    echo "include = 'sandbox.conf'" >>"${INSTANCE[folder]}/data/postgresql.conf"
    write_address
}

# The part of the settings that may change later.
write_address() {
    local data=${INSTANCE[folder]}/data
    printf "port = %s\nunix_socket_directories = '%s'\n" "${INSTANCE[port]}" "${INSTANCE[socket]}" >"$data/sandbox_address.conf"
    ((EUID != 0)) || chown "${INSTANCE[user]}:" "$data"/*.conf
    save_instance
}

# --- its server -------------------------------------------------------------------------------------------------------

# is_server PID: its working folder tells it from another process that got the same number, and from one that has ended
# and only waits to be reaped.
is_server() { [[ $1 =~ ^[0-9]+$ && /proc/$1/cwd -ef ${INSTANCE[folder]}/data ]]; }

# The server's pid, if it runs.
server_pid() {
    local pid=''
    if [[ ${INSTANCE[source]} == docker ]]; then
        docker_server_pid
    else
        read -r pid 2>/dev/null <"${INSTANCE[folder]}/data/postmaster.pid" || return 1
        is_server "$pid" && echo "$pid"
    fi
}

# start_server MAY_MOVE: on a port that was taken in the meantime try again; with another one where nobody knows the old
# one yet, else with the same.
start_server() {
    local may_move=$1 try log=${INSTANCE[folder]}/data/server.log from
    [[ -d ${INSTANCE[socket]} ]] || make_socket_folder # /tmp is emptied now and then
    for ((try = 0; try < 20; try++)); do
        from=$(stat -c %s "$log" 2>/dev/null || echo 0)
        forget_killed_server
        launch_server "$log"
        if wait_until_ready; then return; fi
        tail -c +$((from + 1)) "$log" | grep -q 'could not create any TCP/IP sockets' || break
        pause 0.2
        if ((may_move)); then
            INSTANCE[port]=$(free_port)
            write_address
        fi
    done
    tail -c +$((from + 1)) "$log" | tail -n 20 | sed 's/^/  /' >&2
    die "the server of sandbox ${INSTANCE[name]} did not start; see above and $log"
}

# A killed server leaves its pid file, its socket and a segment of shared memory, which the file names. PostgreSQL would
# not start as long as there is a process of that number, be it another's or one that nobody reaps. But none of its
# children may be left.
forget_killed_server() {
    local file=${INSTANCE[folder]}/data/postmaster.pid children segment=''
    [[ ${INSTANCE[source]} != docker && -e $file ]] || return 0
    while mapfile -t children < <(server_processes) && ((${#children[@]})); do
        kill -KILL "${children[@]}" 2>/dev/null || true
        pause 0.05
    done
    read -r _ segment < <(sed -n 7p "$file") || true
    [[ -z $segment ]] || ipcrm -m "$segment" 2>/dev/null || true
    rm -f "$file" "${INSTANCE[socket]}"/.s.PGSQL.*
}

# Every process of PostgreSQL that works in the data folder.
server_processes() {
    local process name
    for process in /proc/[0-9]*; do
        if is_server "${process##*/}" && read -r name 2>/dev/null <"$process/comm" && [[ $name == postgres ]]; then
            echo "${process##*/}"
        fi
    done
}

launch_server() {
    if [[ ${INSTANCE[source]} == docker ]]; then
        docker_compose up --detach --quiet-pull >/dev/null 2>&1 || true # the log tells
        return
    fi
    server_command "${INSTANCE[user]}" "${INSTANCE[bin]}/postgres" -D "${INSTANCE[folder]}/data"
    # From its data folder, for time zone data may stand beside it.
    detach "${INSTANCE[folder]}/data" "$1" "${SERVER_COMMAND[@]}"
}

# The pid file's last line says ready; the first whose file it is.
wait_until_ready() {
    local lines deadline=$((SECONDS + START_SECONDS))
    while ((SECONDS < deadline)); do
        pause 0.02
        lines=()
        mapfile -t lines 2>/dev/null <"${INSTANCE[folder]}/data/postmaster.pid" || true
        if [[ ${INSTANCE[source]} == docker ]]; then
            server_pid >/dev/null || return 1
            [[ ${lines[7]:-} != ready* ]] || return 0
        else
            [[ ${lines[0]:-} != "$DETACHED_PID" || ${lines[7]:-} != ready* ]] || return 0
            process_start "$DETACHED_PID" >/dev/null || return 1
        fi
    done
    say "the server is not ready after $START_SECONDS s"
    stop_server QUIT KILL
    return 1
}

# stop_server SIGNAL...: each for a while, until it is gone.
stop_server() {
    local signal pid try
    pid=$(server_pid) || return 0
    for signal in "$@"; do
        if [[ ${INSTANCE[source]} == docker ]]; then
            docker_compose kill --signal "SIG$signal" >/dev/null 2>&1 || true
        else
            kill -"$signal" "$pid" 2>/dev/null || return 0
        fi
        for ((try = 0; try < 500; try++)); do
            server_pid >/dev/null || return 0
            pause 0.02
        done
    done
    die "the server of sandbox ${INSTANCE[name]} (process $pid) does not stop"
}

# --- its end ----------------------------------------------------------------------------------------------------------

# Stop the server, at once, for its data go with it, and remove every folder of the loaded instance.
remove_instance() {
    stop_bouncers
    stop_server QUIT KILL
    [[ ${INSTANCE[source]} != docker ]] || docker_compose down >/dev/null 2>&1 || true
    forget_killed_server
    rm -rf "${INSTANCE[socket]}" "${INSTANCE[folder]}"
}

# A process of its own session that ends the instance with its owner.
start_watchdog() {
    : >"${INSTANCE[folder]}/owned.${INSTANCE[id]}"
    detach / /dev/null "$BASH" "$SANDBOX_SCRIPT" watch "${INSTANCE[name]}" "${INSTANCE[id]}"
}

# Instances whose owner is gone, and whose watchdog was ended too.
sweep_instances() {
    local name
    while read -r name; do
        if load_instance "$name" && [[ -n ${INSTANCE[owner]} ]] &&
            ! same_process "${INSTANCE[owner]}" "${INSTANCE[owner_start]}"; then
            end_owned_instance "$name" "${INSTANCE[id]}"
        fi
    done < <(instance_names)
}

# end_owned_instance NAME ID: unless another one has got the name.
end_owned_instance() {
    lock_instance "$1"
    if load_instance "$1" && [[ ${INSTANCE[id]} == "$2" ]]; then
        remove_instance
        forget_instance_lock "$1"
    fi
    unlock
}

lock_instance() { lock "$SANDBOX_HOME/locks/$1"; }
forget_instance_lock() { rm -f "$SANDBOX_HOME/locks/$1"; }
