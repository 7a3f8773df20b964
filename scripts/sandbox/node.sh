# shellcheck shell=bash
# node and npm, from PATH or as Debian packages in a private folder, and what npm installs. Needs common.sh and debian.sh.

# find_node LEAST: sets NODE and NPM, and the authorities that npm trusts.
find_node() {
    local least=$1
    # node brings authorities of its own; a machine behind a proxy has the proxy's among the system's.
    local system=/etc/ssl/certs/ca-certificates.crt
    [[ -n ${NODE_EXTRA_CA_CERTS:-} || ! -r $system ]] || export NODE_EXTRA_CA_CERTS=$system
    if have npm && node_is_new_enough "$least"; then
        NODE=(node) NPM=(npm)
        return
    fi
    debian_prepared node || debian_works || die "install node $least or newer with npm (or use Debian 12 or newer with apt)"
    debian_prefix node trixie nodejs npm patchelf
    local prefix
    prefix=$(debian_folder node)
    # This node looks for its own modules below its working folder (see debian_node).
    NODE=(env -C "$prefix" NODE_PATH="$prefix/usr/share/nodejs" "$prefix/usr/bin/node")
    # shellcheck disable=SC2034 # for the caller
    NPM=("${NODE[@]}" "$prefix/usr/share/nodejs/npm/bin/npm-cli.js")
}

node_is_new_enough() {
    local version
    version=$(node --version 2>/dev/null) || return 1
    version=${version#v}
    ((${version%%.*} >= $1))
}

# packages_folder NAME: where the packages of scripts/NAME stand once they are installed; another lock file is another folder.
packages_folder() {
    local key
    key=$(cat "$SCRIPTS/$1"/* | cksum | cut -d' ' -f1)
    echo "$SANDBOX_HOME/$1-packages/$key"
}

# install_packages NAME: exactly those of the lock file of scripts/NAME, made under another name, with a cache that stays until
# it is complete.
install_packages() {
    local name=$1 final work
    final=$(packages_folder "$name")
    work=$final.work
    [[ ! -e $final/complete ]] || return 0
    lock "$final.lock" "installs $name"
    if [[ ! -e $final/complete ]]; then
        say "installing the packages of $name, once ..."
        rm -rf "$final" "$work/packages"
        mkdir -p "$work/packages"
        cp "$SCRIPTS/$name"/* "$work/packages"
        "${NPM[@]}" ci --prefix "$work/packages" --cache "$work/cache" --legacy-peer-deps --ignore-scripts --no-audit --no-fund \
            --no-update-notifier >"$work/npm.log" 2>&1 || {
            sed 's/^/  /' "$work/npm.log" >&2
            die "npm could not install the packages of $name; see above"
        }
        : >"$work/packages/complete"
        mv "$work/packages" "$final"
        rm -rf "$work"
    fi
    unlock
}
