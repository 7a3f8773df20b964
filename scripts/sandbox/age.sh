# shellcheck shell=bash
# age and age-keygen, from PATH or from Debian's package in a private folder. Needs common.sh and debian.sh.

# find_age: sets AGE_BIN, the folder of both.
find_age() {
    if have age && have age-keygen; then
        AGE_BIN=$(dirname "$(command -v age)")
        return
    fi
    debian_prepared age || debian_works || die "install age (or use Debian 12 or newer with apt)"
    debian_prefix age trixie age patchelf
    # shellcheck disable=SC2034 # for the caller
    AGE_BIN=$(debian_folder age)/usr/bin
}
