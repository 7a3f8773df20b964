#!/usr/bin/env bash
# Measures the runner: beside psql and other migration tools, with more and more migrations, on the field's database, and
# its memory with a large COPY; the validators, and backups and restores beside pg_dump and pg_restore. Each measurement is in turn with what it is compared to, on one private server. Machines
# differ and are noisy: read the ratios, not the seconds. Exits with 1 where a target is missed or something failed.
#   bench.sh [PART...]    race, growth, field, checks, backup, incremental, memory; all without an argument
# For a quick try: MS5_BENCH_RUNS=1 MS5_BENCH_ROWS=1000 MS5_BENCH_CHECK_ROWS=100000 MS5_BENCH_BACKUP_ROWS=100000 MS5_BENCH_INCREMENTAL_ROWS=100000 MS5_BENCH_COPY_MIB=64
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$(readlink -f "$0")")/.."

# shellcheck source=scripts/sandbox/common.sh
. scripts/sandbox/common.sh
# shellcheck source=scripts/bench/measure.sh
. scripts/bench/measure.sh
# shellcheck source=scripts/bench/tools.sh
. scripts/bench/tools.sh
# shellcheck source=scripts/bench/race.sh
. scripts/bench/race.sh
# shellcheck source=scripts/bench/growth.sh
. scripts/bench/growth.sh
# shellcheck source=scripts/bench/memory.sh
. scripts/bench/memory.sh
# shellcheck source=scripts/bench/field.sh
. scripts/bench/field.sh
# shellcheck source=scripts/bench/checks.sh
. scripts/bench/checks.sh
# shellcheck source=scripts/bench/backup.sh
. scripts/bench/backup.sh
# shellcheck source=scripts/bench/incremental.sh
. scripts/bench/incremental.sh

number() { # VARIABLE DEFAULT
    local value=${!1:-$2}
    [[ $value =~ ^[1-9][0-9]*$ ]] || die "$1 is a number from 1, not '$value'"
    echo "$value"
}

finish() {
    rm -rf "$WORK" "$WORK_ON_DISK"
    scripts/sandbox.sh down --name=bench >/dev/null
}

RUNS=$(number MS5_BENCH_RUNS 5)
MIGRATIONS=$(number MS5_BENCH_MIGRATIONS 200)
ROWS=$(number MS5_BENCH_ROWS 200000)
CHECK_ROWS=$(number MS5_BENCH_CHECK_ROWS 5000000)
BACKUP_ROWS=$(number MS5_BENCH_BACKUP_ROWS 5000000)
INCREMENTAL_ROWS=$(number MS5_BENCH_INCREMENTAL_ROWS 20000000)
COPY_MIB=$(number MS5_BENCH_COPY_MIB 1024)
parts=("$@")
((${#parts[@]})) || parts=(race growth field checks backup incremental memory)
for part in "${parts[@]}"; do
    [[ $part == @(race|growth|field|checks|backup|incremental|memory) ]] || usage_error "a part of the bench is race, growth, field, checks, backup, incremental or memory, not '$part'"
done

scripts/setup.sh
home=$(cache_home)
# Two at a time would measure each other, and have one server by the same name.
lock "$home/bench.lock" 'measures'
WORK=$(mktemp -d)
WORK_ON_DISK=$(mktemp -d "$home/bench.XXXXXX")
trap finish EXIT
start_server bench
read -r load _ </proc/loadavg
echo "== $(nproc) processors, load $load before the first measurement: the nearer to 0, the less noise"
((RUNS >= 5)) || echo "== $RUNS instead of 5 rounds: a try, not a measurement"
for part in "${parts[@]}"; do "bench_$part"; done
verdict
