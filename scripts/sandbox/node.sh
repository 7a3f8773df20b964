# shellcheck shell=bash
# node and npm, from PATH or as Debian packages in a private folder. Needs common.sh and debian.sh.

# find_node: sets NODE and NPM, and the authorities that npm trusts.
find_node() {
    # node brings authorities of its own; a machine behind a proxy has the proxy's among the system's.
    local system=/etc/ssl/certs/ca-certificates.crt
    [[ -n ${NODE_EXTRA_CA_CERTS:-} || ! -r $system ]] || export NODE_EXTRA_CA_CERTS=$system
    if have npm && node_is_new_enough; then
        NODE=(node) NPM=(npm)
        return
    fi
    debian_prepared node || debian_works || die "install node 18 or newer with npm (or use Debian 12 or newer with apt)"
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
    ((${version%%.*} >= 18))
}
