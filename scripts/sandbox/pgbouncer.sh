# shellcheck shell=bash
# PgBouncer from Debian's packages, in front of an instance's server. Needs common.sh, debian.sh and instance.sh.
#
# instances/NAME/bouncer.ID    one of any number: settings, users, log; it is its process's working folder, by which the
#                              process is known. They end with the instance, be it by `down` or with its owner.

BOUNCER_SECONDS=30

# Its package depends on scripts for the system's own server, in Perl, which a bouncer started by hand does not need.
prepare_bouncer() {
    debian_prepared pgbouncer || debian_works ||
        die "no PgBouncer to be had: this machine has no apt with a Debian mirror and Debian's keyring; use Debian 12 or newer"
    debian_prefix pgbouncer trixie pgbouncer patchelf postgresql-common-
    BOUNCER_PROGRAM=$(debian_folder pgbouncer)/usr/bin/pgbouncer
    [[ -x $BOUNCER_PROGRAM ]] || die "$(debian_folder pgbouncer) is damaged: remove it and try again"
}

# start_bouncer SETTING...: in front of the loaded instance. Sets BOUNCER_FOLDER and BOUNCER_PORT.
start_bouncer() {
    local try
    BOUNCER_FOLDER=${INSTANCE[folder]}/bouncer.$(random_word 6)
    mkdir "$BOUNCER_FOLDER"
    write_bouncer_users
    for ((try = 0; try < 20; try++)); do
        BOUNCER_PORT=$(free_port)
        write_bouncer_settings "$@"
        give_to "${INSTANCE[user]}" "$BOUNCER_FOLDER"
        : >"$BOUNCER_FOLDER/log"
        server_command "${INSTANCE[user]}" "$BOUNCER_PROGRAM" pgbouncer.ini
        detach "$BOUNCER_FOLDER" "$BOUNCER_FOLDER/log" "${SERVER_COMMAND[@]}"
        if bouncer_is_up; then return; fi
        # Somebody else got the port in the meantime.
        grep -q 'nowhere to listen on' "$BOUNCER_FOLDER/log" || break
    done
    sed 's/^/  /' "$BOUNCER_FOLDER/log" >&2
    die "the bouncer of sandbox ${INSTANCE[name]} did not start; see above"
}

# It asks clients for the passwords of the instance's roles, and with the same it goes to the server.
write_bouncer_users() {
    local role
    declare -A passwords
    read_state "${INSTANCE[folder]}/passwords" passwords
    (
        umask 077
        for role in "${!passwords[@]}"; do printf '"%s" "%s"\n' "$role" "${passwords[$role]}"; done >"$BOUNCER_FOLDER/users"
    )
}

# What stands later wins.
write_bouncer_settings() {
    local setting
    {
        cat <<END
[databases]
* = host=127.0.0.1 port=${INSTANCE[port]}
[pgbouncer]
auth_type = scram-sha-256
auth_file = users
END
        for setting in "$@"; do printf '%s = %s\n' "${setting%%=*}" "${setting#*=}"; done
        cat <<END
listen_addr = 127.0.0.1
listen_port = $BOUNCER_PORT
unix_socket_dir =
END
    } >"$BOUNCER_FOLDER/pgbouncer.ini"
}

# It says so when it listens.
bouncer_is_up() {
    local deadline=$((SECONDS + BOUNCER_SECONDS))
    while ((SECONDS < deadline)); do
        pause 0.02
        ! grep -q 'process up' "$BOUNCER_FOLDER/log" || return 0
        process_start "$DETACHED_PID" >/dev/null || return 1
    done
    say "the bouncer is not ready after $BOUNCER_SECONDS s"
    return 1
}

# Every bouncer of the loaded instance, at once: it has nothing to save.
stop_bouncers() {
    local folder pids
    for folder in "${INSTANCE[folder]}"/bouncer.*/; do
        while mapfile -t pids < <(bouncer_processes "$folder") && ((${#pids[@]})); do
            kill -KILL "${pids[@]}" 2>/dev/null || true
            pause 0.02
        done
    done
}

bouncer_processes() {
    local process name
    [[ -d $1 ]] || return 0
    for process in /proc/[0-9]*; do
        if [[ $process/cwd -ef $1 ]] && read -r name 2>/dev/null <"$process/comm" && [[ $name == pgbouncer ]]; then
            echo "${process##*/}"
        fi
    done
}
