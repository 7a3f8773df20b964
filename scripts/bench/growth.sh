# shellcheck shell=bash
# How the runner's time grows with the number of migrations: it should be a straight line. Needs tools.sh.

# Target: a migration between the second and third size costs at most so many times one between the first and second.
GROWTH_LIMIT=1.5

bench_growth() {
    local counts=(10 100 1000) count round growth times=()
    echo "== migration-runner with ${counts[*]} migrations, in turn, $RUNS rounds"
    for count in "${counts[@]}"; do write_migrations runner "$count" "$WORK/growth/$count"; done
    for ((round = 0; round < RUNS; round++)); do
        for count in "${counts[@]}"; do
            fresh_database_with_extension
            if ! timed "growth.$count" run_runner "$WORK/growth/$count"; then
                show_output
                failed "migration-runner could not apply $count migrations"
                return
            fi
            check_work runner "$count" || {
                failed "migration-runner ended well, but the work of $count migrations is not in the database"
                return
            }
        done
    done
    for count in "${counts[@]}"; do times+=("$(median "growth.$count")"); done
    # Of each round, and of these the median.
    growth=$(paste "$WORK"/times/growth.{10,100,1000} | awk '{ print (($3 - $2) / 900) / (($2 - $1) / 90) }' | middle)
    awk -v n0="${counts[0]}" -v n1="${counts[1]}" -v n2="${counts[2]}" -v t0="${times[0]}" -v t1="${times[1]}" \
        -v t2="${times[2]}" 'BEGIN {
        printf "%10s %12s %20s %20s\n", "migrations", "median ms", "ms a migration", "ms an added one"
        printf "%10d %12.0f %20.2f\n", n0, t0 / 1000, t0 / n0 / 1000
        printf "%10d %12.0f %20.2f %20.2f\n", n1, t1 / 1000, t1 / n1 / 1000, (t1 - t0) / (n1 - n0) / 1000
        printf "%10d %12.0f %20.2f %20.2f\n", n2, t2 / 1000, t2 / n2 / 1000, (t2 - t1) / (n2 - n1) / 1000 }'
    printf 'the last 900 beside the 90 before them, a migration: %.2f\n' "$growth"
    is "$growth <= $GROWTH_LIMIT" || failed "the time a migration takes grows with their number: more than $GROWTH_LIMIT times"
}
