# shellcheck shell=bash
# How much memory the runner takes for a file with a large COPY ... FROM stdin: rows are streamed, so little. Needs measure.sh.

MEMORY_LIMIT_MIB=64

bench_memory() {
    local home folder free need=$((COPY_MIB * 5 + 256)) rows=$((COPY_MIB * 8192)) mib
    home=$(cache_home)
    echo "== peak memory of migration-runner with a COPY of $COPY_MIB MiB ($rows rows) in one file"
    # The file, the table, as much WAL as the server keeps before a checkpoint, and some for what others write meanwhile.
    free=$(df -Pk "$home" | awk 'NR == 2 { print int($4 / 1024) }')
    if ((free < need)); then
        failed "the memory with a large COPY is not measured: $home has $free MiB free, and it takes $need"
        return
    fi
    # Beside the server's data: a temporary folder may itself be memory.
    folder=$WORK_ON_DISK/copy
    mkdir -p "$folder"
    {
        printf -- '-- 001 - Large Copy\nCREATE TABLE bench_copy (id bigint, name text, value double precision);\n'
        printf 'COPY bench_copy FROM stdin;\n'
        # 128 bytes a row, its end included.
        head -n "$rows" < <(yes "$(printf '1234567890\t%0107d\t12345.678' 0)")
        printf '\\.\n'
    } >"$folder/001_large_copy.sql"
    cc -O2 -o "$WORK/peak" scripts/bench/peak.c
    fresh_database_with_extension
    if ! timed memory run_with_peak "$folder"; then
        show_output
        failed "migration-runner could not apply a COPY of $COPY_MIB MiB"
    elif [[ $(sql -d "$DATABASE" -Atc 'SELECT count(*) FROM bench_copy') != "$rows" ]]; then
        failed "migration-runner ended well, but not all rows of the COPY are in the database"
    else
        mib=$(awk '{ printf "%.1f", $1 / 1024 }' "$WORK/peak.kib")
        awk -v mib="$mib" -v time="$(median memory)" 'BEGIN { printf "peak resident memory: %s MiB, in %.1f s\n", mib, time / 1e6 }'
        is "$mib < $MEMORY_LIMIT_MIB" || failed "migration-runner takes $MEMORY_LIMIT_MIB MiB or more for a large COPY"
    fi
    rm -rf "$folder"
}

run_with_peak() {
    DB_NAME=$DATABASE MS5_LOG_DIR=$WORK/logs "$WORK/peak" "$WORK/peak.kib" \
        target/release/migration-runner --environment=test "--migrations-dir=$1"
}
