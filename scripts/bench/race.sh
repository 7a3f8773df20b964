# shellcheck shell=bash
# The runner beside psql and beside the tools it competes with: many small migrations, in turn. Needs tools.sh.

# Targets: at most so many times psql, which keeps no ledger, and less than each of the other tools.
PSQL_LIMIT=1.3
# Runs of a second on a shared machine differ by half; the tools differ by a tenth.
RACE_ROUNDS_PER_RUN=3

declare -A PROGRAM=()

bench_race() {
    local tools=(psql runner) tool round rounds=$((RUNS * RACE_ROUNDS_PER_RUN))
    for tool in dbmate sqlx refinery; do
        if PROGRAM[$tool]=$(scripts/bench/peers.sh "$tool"); then
            tools+=("$tool")
        else
            failed "$tool could not be installed, so nothing is measured beside it"
        fi
    done
    for tool in "${tools[@]}"; do write_migrations "$tool" "$MIGRATIONS" "$WORK/files/$tool"; done

    echo "== $MIGRATIONS small migrations by each tool, in turn: one round that does not count, then $rounds"
    for ((round = 0; round <= rounds; round++)); do
        for tool in "${tools[@]}"; do
            [[ -e $WORK/broken.$tool ]] || run_tool "$tool" "$round"
        done
    done
    show_race "${tools[@]}"
}

run_tool() { # TOOL ROUND
    local series=race.$1
    (($2 > 0)) || series=warm-up.$1
    fresh_database_with_extension
    "prepare_$1"
    if ! timed "$series" "run_$1" "$WORK/files/$1"; then
        show_output
        failed "$1 could not apply its migrations"
    elif ! check_work "$1" "$MIGRATIONS"; then
        failed "$1 ended well, but its work is not in the database"
    else
        return 0
    fi
    # Its other rounds would fail alike.
    : >"$WORK/broken.$1"
}

version_of() {
    local line version='[0-9]+(\.[0-9]+)+[^ ]*'
    case $1 in
        psql) line=$(sql --version) ;;
        runner) line=$(target/release/migration-runner --version) ;;
        *) line=$("${PROGRAM[$1]}" --version) ;;
    esac
    [[ $line =~ $version ]]
    echo "${BASH_REMATCH[0]}"
}

show_race() { # TOOL...
    local tool name to_psql
    printf '%-18s %-9s %10s %21s %9s\n' tool version 'median ms' 'least and most ms' 'to psql'
    for tool in "$@"; do
        [[ ! -e $WORK/broken.$tool ]] || continue
        name=$tool to_psql=-
        [[ $tool != runner ]] || name=migration-runner
        [[ -e $WORK/broken.psql ]] || to_psql=$(ratio "race.$tool" race.psql)
        awk -v name="$name" -v version="$(version_of "$tool")" -v median="$(median "race.$tool")" \
            -v least="$(least "race.$tool")" -v most="$(most "race.$tool")" -v to_psql="$to_psql" 'BEGIN {
            printf "%-18s %-9s %10.0f %12.0f %8.0f %9s\n", name, version, median / 1000, least / 1000, most / 1000,
                to_psql == "-" ? to_psql : sprintf("%.2f", to_psql) }'
    done
    [[ ! -e $WORK/broken.runner ]] || return 0
    for tool in "$@"; do
        [[ $tool != runner && ! -e $WORK/broken.$tool ]] || continue
        if [[ $tool == psql ]]; then
            is "$(ratio race.runner race.psql) <= $PSQL_LIMIT" || failed "migration-runner takes more than $PSQL_LIMIT times as long as psql"
        else
            is "$(ratio race.runner "race.$tool") < 1" || failed "migration-runner is not faster than $tool"
        fi
    done
}
