#!/usr/bin/env bash
# Looks at pages in a Chromium without a window, as the tests of the reports do.
set -euo pipefail
shopt -s inherit_errexit

SCRIPTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/sandbox/common.sh
. "$SCRIPTS/sandbox/common.sh"
# shellcheck source=scripts/sandbox/debian.sh
. "$SCRIPTS/sandbox/debian.sh"
# shellcheck source=scripts/sandbox/node.sh
. "$SCRIPTS/sandbox/node.sh"
# shellcheck source=scripts/sandbox/chromium.sh
. "$SCRIPTS/sandbox/chromium.sh"

usage() {
    cat <<'END'
usage: browser.sh COMMAND

  look FILE...    open each page without script and network, wide and narrow, light, dark and for print, and write what was
                  seen as JSON to stdout: overflow, contrast, headings, charts, figures, requests
  prepare         only fetch what it needs
  help

Needs node 20 or newer with npm and chromium, or else apt on Debian 12 or newer.
variables: MS5_SCREENSHOTS    a folder for each page and a picture of each view
           MS5_SANDBOX_HOME   folder of packages
END
}

prepare() {
    find_node 20
    install_packages browser
    find_chromium
}

main() {
    local command=${1:-} file files=() shots=${MS5_SCREENSHOTS:-}
    (($# == 0)) || shift
    case $command in
        prepare)
            (($# == 0)) || usage_error "prepare takes no arguments"
            SANDBOX_HOME=$(cache_home)
            prepare
            ;;
        look)
            (($# > 0)) || usage_error "look wants a page"
            # node may run in another folder.
            for file in "$@"; do files+=("$(readlink -e "$file")") || die "there is no $file"; done
            [[ -z $shots ]] || { mkdir -p "$shots" && shots=$(readlink -e "$shots"); }
            SANDBOX_HOME=$(cache_home)
            prepare
            MS5_SCREENSHOTS=$shots exec "${NODE[@]}" "$(packages_folder browser)/look.mjs" "$CHROMIUM" "${files[@]}"
            ;;
        help | --help | -h) usage ;;
        *)
            [[ -z $command ]] || say "unknown command: $command"
            usage >&2
            exit 2
            ;;
    esac
}

main "$@"
