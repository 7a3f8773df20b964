# shellcheck shell=bash
# Which PostgreSQL a sandbox runs: one of this machine, Docker's, or Debian's packages. Needs common.sh, debian.sh, docker.sh.
#
# find_engine fills ENGINE: source (local, docker, debian), bin (folder with postgres, psql, pg_dump ...), pg (version),
# timescaledb (version or -), edition (apache, community, plain), zoneinfo (folder, where the system has none), and for
# Docker image.
#
# Each source has two functions: SOURCE_usable says whether it can serve the wish, changing nothing; SOURCE_engine does it.

declare -A ENGINE=()

# find_engine WANTED PLAIN: WANTED is pg17, pg18 or empty for any.
find_engine() {
    local wanted=$1 plain=$2 source sources
    sources=$(engine_sources "$wanted")
    for source in $sources; do
        ENGINE=()
        if "${source}_usable" "$wanted" "$plain"; then
            ENGINE[source]=$source
            "${source}_engine" "$wanted" "$plain"
            return
        fi
    done
    no_engine "$wanted" "$plain"
}

# Docker comes before Debian's packages, but for a wanted version: these say exactly what they hold.
engine_sources() {
    case ${MS5_SANDBOX:-} in
        '') if [[ -n $1 ]]; then echo local debian docker; else echo local docker debian; fi ;;
        local | docker | debian) echo "$MS5_SANDBOX" ;;
        *) usage_error "MS5_SANDBOX is local, docker or debian, not '$MS5_SANDBOX'" ;;
    esac
}

no_engine() {
    local what="PostgreSQL${1:+ ${1#pg}}"
    (($2)) || what+=" with the timescaledb extension"
    case ${MS5_SANDBOX:-} in
        local) die "this machine has no $what: install it, or unset MS5_SANDBOX" ;;
        docker) die "Docker does not answer: start its engine and install its compose plugin, or unset MS5_SANDBOX" ;;
        debian) die "this machine has no apt with a Debian mirror and Debian's keyring: use Debian 12 or newer, or unset MS5_SANDBOX" ;;
        *) die "no server to be had: install $what, or Docker with compose, or use Debian 12 or newer with apt" ;;
    esac
}

# --- a PostgreSQL of this machine -------------------------------------------------------------------------------------

# For a plain server any will do, for its extension can be left out.
local_usable() {
    local wanted=$1 plain=$2 bin
    while read -r bin; do
        describe_engine "$bin" || continue
        [[ -z $wanted || ${ENGINE[pg]%%.*} == "${wanted#pg}" ]] || continue
        ((plain)) || [[ ${ENGINE[timescaledb]} != - ]] || continue
        return 0
    done < <(local_folders)
    return 1
}

local_engine() {
    if (($2)); then make_plain; fi
}

# Folders with a server, newest version first.
local_folders() {
    local bin
    for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql*/bin /opt/*/bin /usr/local/bin /usr/bin \
        "$(pg_config --bindir 2>/dev/null || true)"; do
        [[ -x $bin/postgres && -x $bin/initdb && -x $bin/psql ]] || continue
        printf '%s %s\n' "$(postgres_version "$bin")" "$bin"
    done | sort -Vru | cut -d' ' -f2-
}

postgres_version() { "$1/postgres" --version 2>/dev/null | awk '{ print $3 }'; }

# describe_engine BIN: fills ENGINE from what lies around BIN; fails where the server's own files are not found.
describe_engine() {
    local bin=$1 share='' lib='' folder
    ENGINE[bin]=$bin
    ENGINE[pg]=$(postgres_version "$bin") || return 1
    ENGINE[timescaledb]=-
    ENGINE[edition]=plain
    for folder in "$bin"/../share/postgresql "$bin"/../share "$bin/../../../../share/postgresql/${ENGINE[pg]%%.*}"; do
        [[ ! -f $folder/extension/plpgsql.control ]] || share=$folder
    done
    for folder in "$bin"/../lib/postgresql "$bin"/../lib; do
        [[ ! -f $folder/plpgsql.so ]] || lib=$folder
    done
    [[ -n $share && -n $lib ]] || return 1
    ENGINE[share]=$(cd "$share" && pwd -P)
    ENGINE[lib]=$(cd "$lib" && pwd -P)
    [[ -f $share/extension/timescaledb.control && -f $lib/timescaledb.so ]] || return 0
    ENGINE[timescaledb]=$(control_version <"$share/extension/timescaledb.control")
    ENGINE[edition]=apache
    # What the timescale licence covers is a library of its own.
    [[ ! -f $lib/timescaledb-tsl-${ENGINE[timescaledb]}.so ]] || ENGINE[edition]=community
}

control_version() { sed -nE "s/^default_version *= *'([^']*)'.*/\1/p"; }

# --- Debian packages --------------------------------------------------------------------------------------------------

# What is prepared is used as it is: no apt, no network.
debian_usable() { debian_prepared "${1:-pg17}" || debian_works; }

debian_engine() {
    local wanted=${1:-pg17} plain=$2 prefix suite=trixie
    [[ $wanted != pg18 ]] || suite=sid
    debian_prefix "$wanted" "$suite" "postgresql-${wanted#pg}-timescaledb" patchelf tzdata
    prefix=$(debian_folder "$wanted")
    describe_engine "$prefix/usr/lib/postgresql/${wanted#pg}/bin" || die "$prefix is damaged: remove it and try again"
    if ((plain)); then make_plain; fi
    [[ ! -d $prefix/usr/share/zoneinfo ]] || ENGINE[zoneinfo]=$prefix/usr/share/zoneinfo
}

# --- the state before: no extension -----------------------------------------------------------------------------------

# make_plain: turns ENGINE into one without TimescaleDB's files. PostgreSQL finds its folders relative to where its
# programs really are, so these are copied, and the rest is linked to.
make_plain() {
    local bin=${ENGINE[bin]} share=${ENGINE[share]} lib=${ENGINE[lib]} final work program
    final=$SANDBOX_HOME/plain/pg${ENGINE[pg]}-$(cksum <<<"$bin" | cut -d' ' -f1)
    [[ ${ENGINE[timescaledb]} != - ]] || return 0
    lock "$final.lock"
    if [[ ! -e $final/stamp ]]; then
        work=$final.work
        rm -rf "$work" "$final"
        mkdir -p "$work$bin" "$work$lib" "$work$share/extension"
        for program in "$bin"/{postgres,initdb,psql,pgbench,vacuumlo,oid2name,pg_*,{create,drop}{db,user},{vacuum,reindex,cluster}db}; do
            [[ ! -x $program ]] || cp -aL --reflink=auto "$program" "$work$bin"
        done
        link_but_timescaledb "$lib" "$work$lib"
        link_but_timescaledb "$share" "$work$share"
        link_but_timescaledb "$share/extension" "$work$share/extension"
        : >"$work/stamp"
        mv "$work" "$final"
    fi
    unlock
    describe_engine "$final$bin" || die "$final is damaged: remove it and try again"
}

link_but_timescaledb() {
    find "$1" -mindepth 1 -maxdepth 1 ! -name 'timescaledb*' ! -name extension -exec ln -s -t "$2" {} +
}
