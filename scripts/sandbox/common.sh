# shellcheck shell=bash
# What sandbox.sh, pglite.sh and browser.sh share: messages, the cache folder, locks, small state files, free ports, detached processes
# and the user that servers run as.
#
# Functions named in a condition run without errexit: they only look. What changes something is called by itself.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
usage_error() { say "$*"; say "try '${0##*/} help'"; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Root's home is usually closed to the user the server runs as, so root gets a folder that others can enter.
cache_home() {
    local home
    if [[ -n ${MS5_SANDBOX_HOME:-} ]]; then
        home=$MS5_SANDBOX_HOME
    elif ((EUID == 0)); then
        home=/var/cache/ms5-sandbox
    else
        home=${XDG_CACHE_HOME:-${HOME:-~}/.cache}/ms5-sandbox
    fi
    mkdir -p "$home" 2>/dev/null || die "cannot create $home; set MS5_SANDBOX_HOME to a folder that can be written"
    home=$(cd "$home" && pwd -P)
    # These end a path where a library folder, apt's settings or a mount are written down.
    [[ $home != *[:\",]* && $home != *$'\n'* ]] || die "the folder $home has a character that cannot be used: set MS5_SANDBOX_HOME"
    echo "$home"
}

valid_name() { [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$ ]]; }

# --- locks ----------------------------------------------------------------------------------------------------------

# lock PATH [WHAT]: hold PATH exclusively until `unlock`. Says so when it has to wait and WHAT is given.
lock() {
    local path=$1 what=${2:-}
    mkdir -p "${path%/*}"
    while :; do
        exec {LOCK_FD}>"$path"
        if ! flock -n "$LOCK_FD"; then
            [[ -z $what ]] || say "waiting for another process that $what ..."
            flock "$LOCK_FD"
        fi
        # The holder before us may have removed the file: then what we hold guards nothing.
        [[ /proc/self/fd/$LOCK_FD -ef $path ]] && return
        exec {LOCK_FD}>&-
    done
}

unlock() { exec {LOCK_FD}>&-; }

# --- state files: one key=value a line, read without evaluating anything ----------------------------------------------

# read_state FILE ARRAY: fill the associative array named ARRAY.
read_state() {
    local -n into=$2
    local key value
    into=()
    # shellcheck disable=SC2034 # it is the caller's array
    while IFS='=' read -r key value; do into["$key"]=$value; done <"$1"
}

# write_state FILE ARRAY: replace FILE at once, so that a reader never sees half of it.
write_state() {
    local -n from=$2
    local key
    (
        umask 077
        for key in "${!from[@]}"; do printf '%s=%s\n' "$key" "${from[$key]}"; done | sort >"$1.new"
    )
    mv -f "$1.new" "$1"
}

random_word() { od -An -N"${1:-18}" -tx1 /dev/urandom | tr -d ' \n'; }

# A line that sets a variable in any POSIX shell.
export_line() { printf "export %s='%s'\n" "$1" "${2//\'/\'\\\'\'}"; }

# --- ports ----------------------------------------------------------------------------------------------------------

# A port the kernel picks: connecting a UDP socket sends nothing, but binds it to one.
# Only odd ones are taken: the kernel prefers even ports for outgoing TCP connections, so an odd one stays free while
# its server is stopped and started again.
free_port() {
    local fd inode port hex try
    for ((try = 0; try < 200; try++)); do
        exec {fd}<>/dev/udp/127.0.0.1/9
        inode=$(readlink "/proc/self/fd/$fd")
        inode=${inode//[^0-9]/}
        port=$(awk -v inode="$inode" '$10 == inode { split($2, part, ":"); print part[2] }' /proc/net/udp)
        exec {fd}>&-
        hex=${port^^}
        [[ -n $hex ]] || continue
        port=$((16#$hex))
        ((port % 2 == 1)) || continue
        if ! tcp_port_is_used "$hex"; then
            echo "$port"
            return
        fi
    done
    die "the kernel gave no free port"
}

tcp_port_is_used() {
    { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true; } | awk -v port=":$1" 'index($2, port) { found = 1 } END { exit !found }'
}

# --- processes ------------------------------------------------------------------------------------------------------

# A pid alone can be reused; a pid with its start time cannot. Fails for a process that is gone or only waits to be reaped.
process_start() {
    local stat fields
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    read -ra fields <<<"${stat##*) }" # the name before it may hold blanks and brackets
    [[ ${fields[0]} != [ZX] ]] || return 1
    echo "${fields[19]}"
}

same_process() {
    local now
    now=$(process_start "$1") && [[ $now == "$2" ]]
}

# A pause without a process: nobody ever writes to this pipe.
exec {PAUSE_FD}<> <(:)
pause() { read -rt "$1" -u "$PAUSE_FD" _ || true; }

# detach FOLDER LOG COMMAND...: in a session of its own, with no file descriptor of the caller's left open, so that whoever
# reads our output sees its end. The pid is left in DETACHED_PID.
detach() {
    local folder=$1 log=$2
    shift 2
    (
        cd "$folder" || exit
        for fd in "/proc/$BASHPID/fd/"*; do
            fd=${fd##*/}
            ((fd <= 2 || fd == 255)) || exec {fd}>&- # 255 is bash's own, closed by exec
        done
        exec setsid "$@"
    ) </dev/null >>"$log" 2>&1 &
    # shellcheck disable=SC2034 # for the caller
    DETACHED_PID=$!
}

# watch_owner PID START MARKER: return when the process is gone; exit when MARKER is, for then there is nothing to watch.
watch_owner() {
    local stat fields
    while :; do
        [[ -e $3 ]] || exit 0
        stat='' && read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
        read -ra fields <<<"${stat##*) }"
        [[ ${fields[0]} != [ZX] && ${fields[19]} == "$2" ]] || return 0
        pause 0.5
    done
}

# --- the user that servers run as -------------------------------------------------------------------------------------

# PostgreSQL refuses to run as root.
server_user() {
    local user
    if ((EUID != 0)); then
        id -un
    elif [[ -n ${MS5_SANDBOX_USER:-} ]]; then
        id -u "$MS5_SANDBOX_USER" >/dev/null 2>&1 || die "MS5_SANDBOX_USER: there is no user $MS5_SANDBOX_USER"
        (($(id -u "$MS5_SANDBOX_USER") != 0)) || die "MS5_SANDBOX_USER: the server refuses to run as root"
        echo "$MS5_SANDBOX_USER"
    else
        for user in postgres nobody; do
            id -u "$user" >/dev/null 2>&1 && echo "$user" && return
        done
        die "root needs an unprivileged user to run the server as: set MS5_SANDBOX_USER"
    fi
}

# server_command USER COMMAND...: sets SERVER_COMMAND to run COMMAND as USER with a clean environment.
server_command() {
    local user=$1
    shift
    SERVER_COMMAND=(env -i PATH="$PATH" LC_ALL=C TZ=UTC0 "$@")
    if [[ ${ENGINE[source]:-} == docker ]]; then
        # Docker itself takes the user.
        SERVER_COMMAND=(env LC_ALL=C TZ=UTC0 MS5_DOCKER_USER="$(id -u "$user"):$(id -g "$user")" "$@")
    elif ((EUID == 0)); then
        SERVER_COMMAND=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups -- "${SERVER_COMMAND[@]}")
    fi
}

as_user() {
    server_command "$@"
    (cd / && "${SERVER_COMMAND[@]}")
}
