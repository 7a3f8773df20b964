#!/usr/bin/env bash
# The migration tools that `make bench` measures beside ours, in the cache folder: each once, then from there.
#   peers.sh NAME    install dbmate, sqlx, refinery or pigz if it is not there yet, and print the path of its program
# A program of its own, so that one that cannot be installed ends nothing but its own installation.
set -euo pipefail
shopt -s inherit_errexit

SCRIPTS=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/..")
# shellcheck source=scripts/sandbox/common.sh
. "$SCRIPTS/sandbox/common.sh"
# shellcheck source=scripts/sandbox/debian.sh
. "$SCRIPTS/sandbox/debian.sh"
# shellcheck source=scripts/sandbox/node.sh
. "$SCRIPTS/sandbox/node.sh"

# Their current releases, each pinned: a figure beside "the newest" could not be measured again.
declare -A VERSIONS=([dbmate]=2.36.0 [sqlx]=0.9.0 [refinery]=0.10.0 [pigz]=trixie)

# npm's package is a small script of node's around the real program, which lies in a package of its own for each kind of
# machine. That one is taken: the start of node is not dbmate's time.
install_dbmate() { # INTO WORK VERSION
    find_node 18
    # No lock file: it would name the registry. Two packages, both of the pinned version, have no tree to lock.
    "${NPM[@]}" install --prefix "$2/npm" --cache "$2/cache" --no-package-lock --ignore-scripts --no-audit --no-fund \
        --no-update-notifier "dbmate@$3"
    mkdir -p "$1/bin"
    cp "$2"/npm/node_modules/@dbmate/*/bin/dbmate "$1/bin/dbmate"
}

# PostgreSQL only, and TLS without a system library.
install_sqlx() { cargo_install sqlx-cli "$@" --no-default-features --features postgres,rustls; }

# PostgreSQL only. It has no TLS but OpenSSL's, so it wants libssl-dev and pkg-config.
install_refinery() { cargo_install refinery_cli "$@" --no-default-features --features postgresql; }

# Debian's, in the release that the servers are of.
install_pigz() { # INTO
    debian_prefix pigz trixie pigz patchelf
    mkdir -p "$1/bin"
    ln -s "$(debian_folder pigz)/usr/bin/pigz" "$1/bin/pigz"
}

cargo_install() { # CRATE INTO WORK VERSION FLAG...
    # Its own lock file, and a target folder that goes with WORK. The linker's and optimiser's settings are the crate's.
    # nice: it builds for minutes, and others may be at work on this machine.
    nice -n 19 cargo install "$1" --version "=$4" --locked --root "$2" --target-dir "$3/target" --no-track "${@:5}"
}

main() {
    local name=${1:-} version folder work
    version=${VERSIONS[$name]:-}
    [[ -n $version ]] || usage_error "which one? one of: ${!VERSIONS[*]}"
    folder=$(cache_home)
    SANDBOX_HOME=$folder
    folder=$SANDBOX_HOME/peers/$name-$version
    work=$folder.work
    if [[ ! -e $folder/complete ]]; then
        lock "$folder.lock" "installs $name"
        if [[ ! -e $folder/complete ]]; then
            say "installing $name $version, once ..."
            rm -rf "$folder" "$work/into"
            mkdir -p "$work/into"
            # In a process of its own: errexit holds in it, which a condition here would take away.
            "$BASH" "${BASH_SOURCE[0]}" --into "$name" "$work/into" "$work" "$version" </dev/null >"$work/log" 2>&1 || {
                tail -n 15 "$work/log" | sed 's/^/  /' >&2
                die "could not install $name $version; see above and $work/log"
            }
            "$work/into/bin/$name" --version >/dev/null || die "$name $version does not start"
            : >"$work/into/complete"
            mv "$work/into" "$folder"
            rm -rf "$work"
        fi
        unlock
    fi
    echo "$folder/bin/$name"
}

if [[ ${1:-} == --into ]]; then
    SANDBOX_HOME=$(cache_home)
    "install_$2" "${@:3}"
else
    main "$@"
fi
