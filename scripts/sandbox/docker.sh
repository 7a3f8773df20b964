# shellcheck shell=bash
# The official image in Docker: programs that stand for those of the image, and the server as a container.
# Needs common.sh and engine.sh.

declare -A ENGINE INSTANCE

docker_usable() { have docker && timeout 20 docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }

docker_engine() {
    local major=${1:-pg17} plain=$2 image
    image=${MS5_SANDBOX_IMAGE:-timescale/timescaledb:latest-$major}
    ((!plain)) || image=postgres:${major#pg}-alpine
    ENGINE[image]=$image
    ENGINE[bin]=$SANDBOX_HOME/docker/${image//[^A-Za-z0-9._-]/_}/bin
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >&2
    [[ -d ${ENGINE[bin]} ]] || docker_programs
    ENGINE[pg]=$(postgres_version "${ENGINE[bin]}")
    ENGINE[timescaledb]=-
    ENGINE[edition]=plain
    ((plain)) || docker_describe_extension
}

docker_describe_extension() {
    local files
    # shellcheck disable=SC2016 # expanded in the container
    files=$(docker run --rm --entrypoint sh "${ENGINE[image]}" -c \
        'cat "$(pg_config --sharedir)/extension/timescaledb.control"; ls "$(pg_config --pkglibdir)"')
    ENGINE[timescaledb]=$(control_version <<<"$files")
    ENGINE[edition]=apache
    [[ $files != *"timescaledb-tsl-${ENGINE[timescaledb]}.so"* ]] || ENGINE[edition]=community
}

# A folder of small programs, each of which runs the image's own, on the host's network and with the same paths.
docker_programs() {
    local final=${ENGINE[bin]} work=${ENGINE[bin]}.work.$$ program
    rm -rf "$work"
    mkdir -p "$work"
    for program in postgres initdb psql pg_dump pg_dumpall pg_restore pg_isready pg_controldata pgbench createdb dropdb; do
        cat >"$work/$program" <<END
#!/usr/bin/env bash
variables=()
for name in \${!PG@} LC_ALL TZ; do variables+=(--env "\$name"); done
exec docker run --rm --interactive --network host --user "\${MS5_DOCKER_USER:-\$(id -u):\$(id -g)}" "\${variables[@]}" \\
    --mount "type=bind,source=$SANDBOX_HOME,target=$SANDBOX_HOME" --mount type=bind,source=/tmp,target=/tmp \\
    --mount "type=bind,source=\$PWD,target=/work" --workdir /work --entrypoint $program ${ENGINE[image]} "\$@"
END
        chmod +x "$work/$program"
    done
    mv -T "$work" "$final" 2>/dev/null || rm -rf "$work" # another process was first
}

# docker_compose ARGUMENT...: for the container of the loaded instance.
docker_compose() {
    MS5_SANDBOX_IMAGE=${INSTANCE[image]} MS5_SANDBOX_DATA=${INSTANCE[folder]}/data MS5_SANDBOX_SOCKET=${INSTANCE[socket]} \
        MS5_SANDBOX_UID=$(id -u "${INSTANCE[user]}") MS5_SANDBOX_GID=$(id -g "${INSTANCE[user]}") \
        docker compose --file "${SANDBOX_MODULES%/*}/compose.sandbox.yml" \
        --project-name "ms5-sandbox-$(tr 'A-Z.' 'a-z-' <<<"${INSTANCE[name]}")-${INSTANCE[id]}" "$@"
}

# The pid that the server has outside its container.
docker_server_pid() {
    local container pid
    container=$(docker_compose ps --quiet server 2>/dev/null) && [[ -n $container ]] || return 1
    pid=$(docker inspect --format '{{.State.Pid}}' "$container" 2>/dev/null) && ((pid > 0)) && echo "$pid"
}
