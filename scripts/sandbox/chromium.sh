# shellcheck shell=bash
# A Chromium without a window, from PATH or from Debian's package in a private folder. Needs common.sh and debian.sh.

# find_chromium: sets CHROMIUM, the program, and the fonts that it draws with.
find_chromium() {
    local name
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        if have "$name"; then
            CHROMIUM=$(command -v "$name")
            return
        fi
    done
    debian_prepared chromium || debian_works || die "install chromium (or use Debian 12 or newer with apt)"
    debian_prefix chromium trixie chromium-headless-shell patchelf \
        fonts-liberation fonts-dejavu-core fonts-noto-color-emoji xdg-utils- x11-utils-
    local prefix
    prefix=$(debian_folder chromium)
    export FONTCONFIG_FILE=$prefix/fonts.conf
    # shellcheck disable=SC2034 # for the caller
    CHROMIUM=$prefix/usr/lib/chromium/chromium-headless-shell
}
