# shellcheck shell=bash
# Debian packages in a private folder: fetched with the machine's own apt and mirror, unpacked, and made to run on their
# own C library, without root and without touching the system. Needs common.sh.

# Part of the folder's name: a change to how a folder is made must not meet one made the old way.
DEBIAN_RECIPE=4

debian_works() { have apt-get && have dpkg-deb && [[ -n $(debian_keyring) && -n $(debian_mirrors) ]]; }

debian_keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ ! -r $file ]] || { echo "$file" && return; }
    done
}

# The archives this machine takes its Debian release from, one a line. apt itself reads its sources, in whatever form.
debian_mirrors() {
    local codename
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null) || true
    apt-get update --print-uris 2>/dev/null |
        sed -nE "s#^'(.*)/dists/(${codename:-sid}|oldstable|stable|testing|unstable|sid)/(In)?Release.*#\1#p" | awk '!seen[$0]++'
}

# debian_apt_config WORK: an apt that keeps everything in WORK and else goes by the machine's configuration
# (proxy, certificates, credentials).
debian_apt_config() {
    local work=$1
    mkdir -p "$work"/{lists/partial,archives/partial,sources,preferences}
    : >"$work/status"
    cat >"$work/apt.conf" <<END
Dir::State "$work";
Dir::State::Lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Cache::archives "$work/archives";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$work/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "$work/preferences";
APT::Default-Release "";
APT::Get::Assume-Yes "true";
APT::Update::Error-Mode "any";
APT::Keep-Downloaded-Packages "true";
Acquire::Retries "3";
// Hooks of the machine tidy the system's folders, not ours.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
END
}

debian_apt() {
    local work=$1 log=$1/apt.log
    shift
    DEBIAN_FRONTEND=noninteractive apt-get -c "$work/apt.conf" -q "$@" >"$log" 2>&1
}

# debian_update WORK SUITE: read the package list from the first mirror that has SUITE signed by Debian.
debian_update() {
    local work=$1 suite=$2 mirror
    while read -r mirror; do
        cat >"$work/sources/sandbox.sources" <<END
Types: deb
URIs: $mirror
Suites: $suite
Components: main
Architectures: $(dpkg --print-architecture)
Targets: Packages
Languages: none
Signed-By: $(debian_keyring)
END
        debian_apt "$work" update && return
    done < <(debian_mirrors)
    sed 's/^/  /' "$work/apt.log" >&2
    die "no Debian mirror of this machine's apt configuration serves $suite; see above"
}

# debian_download WORK PACKAGE...: the packages and all they depend on; what is there already is not fetched again.
# PACKAGE- is left out, with what only it depends on: apt is told that it is installed.
debian_download() {
    local work=$1 package packages=()
    : >"$work/status"
    for package in "${@:2}"; do
        if [[ $package == *- ]]; then
            printf 'Package: %s\nStatus: install ok installed\nVersion: 9999\nArchitecture: all\n\n' "${package%-}" >>"$work/status"
        else
            packages+=("$package")
        fi
    done
    if debian_apt "$work" --no-install-recommends --download-only install "${packages[@]}" &&
        debian_apt "$work" autoclean; then return; fi
    sed 's/^/  /' "$work/apt.log" >&2
    die "could not download ${packages[*]}; see above"
}

# What the packages depend on but a program run by hand does not need; only the large ones matter.
debian_needless() {
    case ${1##*/} in
        perl_* | perl-* | libperl* | locales_* | libc-l10n_* | libllvm* | libz3-* | libdb5* | mesa-* | libgl1-mesa* | dpkg_* | tar_*) ;;
        python3* | libpython3* | gyp_* | lib*-dev_* | eslint_* | webpack_* | node-babel* | node-core-js* | node-caniuse*) ;;
        *) return 1 ;;
    esac
}

# debian_unpack ARCHIVES ROOT: the parts of the packages that programs need when they run.
debian_unpack() {
    local archives=$1 root=$2 deb
    rm -rf "$root"
    mkdir -p "$root"
    for deb in "$archives"/*.deb; do
        debian_needless "$deb" || dpkg-deb -x "$deb" "$root"
    done
    find "$root/usr/share" -mindepth 1 -maxdepth 1 ! -name postgresql ! -name zoneinfo ! -name nodejs ! -name fonts -exec rm -rf {} +
    [[ ! -e $root/usr/sbin/pgbouncer ]] || mv -t "$root/usr/bin" "$root/usr/sbin/pgbouncer"
    find "$root/usr/lib" -path '*/pulseaudio/*.so' -execdir mv -t .. {} +
    find "$root/usr/bin" -mindepth 1 ! -name node ! -name pgbouncer ! -name pigz ! -name 'age*' ! -name patchelf -delete
    # JIT stays off, so its code is not needed.
    rm -rf "$root"/usr/lib/postgresql/*/lib/{bitcode,llvmjit*,pgxs} "$root"/usr/lib/*/gconv "$root"/usr/lib/chromium/libVk* \
        "$root"/usr/{sbin,games,include,src} "${root:?}"/{etc,var,lib}
}

is_elf() {
    local magic=''
    LC_ALL=C IFS= read -rN4 magic <"$1" 2>/dev/null || true
    [[ $magic == $'\x7fELF' ]]
}

# debian_own ROOT: the programs and modules under ROOT, and the libraries that name a folder of their own, each ended by NUL.
debian_own() { find "$1"/usr/{bin,lib/postgresql,lib/chromium} "$1"/usr/lib/*/libpulse* -type f ! -name patchelf -print0 2>/dev/null; }

# debian_patch ROOT FINAL: every program and module under ROOT gets the loader and libraries that will stand in FINAL.
debian_patch() {
    local root=$1 final=$2 libc libs loader file programs=() modules=()
    libc=$(find "$root/usr/lib" -name libc.so.6 -print -quit)
    libs=${libc%/*}
    loader=$(find "$libs" -name 'ld-linux*.so.*' -print -quit)
    while IFS= read -r -d '' file; do
        is_elf "$file" || continue
        case $file in *.so | *.so.* | *.node) modules+=("$file") ;; *) programs+=("$file") ;; esac
    done < <(debian_own "$root")
    debian_patchelf() { "$loader" --library-path "$libs" "$root/usr/bin/patchelf" "$@"; }
    # RPATH, not RUNPATH: it holds for the libraries of the libraries too.
    debian_patchelf --force-rpath --set-rpath "$final${libs#"$root"}" "${programs[@]}" "${modules[@]}"
    debian_patchelf --set-interpreter "$final${loader#"$root"}" "${programs[@]}"
    rm "$root/usr/bin/patchelf"
}

# Debian's PostgreSQL reads the system's time zone data. Where the system has none, it comes along, and the programs look
# for it in a place beside the data folder, their working folder (see link_zoneinfo).
debian_zoneinfo() {
    local root=$1 from=/usr/share/zoneinfo to=../zoneinfo
    if [[ -e $from/Europe/Berlin ]]; then
        rm -rf "${root:?}$from"
    elif [[ -d $root/usr/lib/postgresql ]]; then
        rm -f "$root$from/localtime" # a link to what a machine without zones lacks too
        grep -lZ "$from" "$root"/usr/lib/postgresql/*/bin/* |
            LC_ALL=C xargs -0 sed -i "s#$from\\x00#$to$(printf '\\x00%.0s' $(seq $((${#from} - ${#to} + 1))))#g"
    fi
}

# Debian's node reads some of its own modules from a fixed folder when it starts: make it one below its working folder,
# by a name of the same length.
debian_node() {
    find "$1/usr/lib" -name 'libnode.so.*' -type f -exec sed -i 's#/usr/share/nodejs/#usr/share/nodejs//#g' {} +
}

# debian_fonts ROOT FINAL: programs that draw text find the fonts that came along, whatever the system has. See FONTCONFIG_FILE.
debian_fonts() {
    [[ -d $1/usr/share/fonts ]] || return 0
    cat >"$1/fonts.conf" <<END
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir>$2/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias><family>sans-serif</family><prefer><family>Liberation Sans</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>Liberation Mono</family></prefer></alias>
</fontconfig>
END
}

# debian_verify ROOT: no library of a program or module may come from the system, where it may be missing or another one.
debian_verify() {
    local root=$1 file loader strays
    loader=$(find "$root/usr/lib" -name 'ld-linux*.so.*' -print -quit)
    while IFS= read -r -d '' file; do
        is_elf "$file" || continue
        strays=$("$loader" --list "$file" | grep -F ' => ' | grep -vF " => $root/" || true)
        [[ -z $strays ]] || die "$file does not find all its libraries in its packages: $strays"
    done < <(debian_own "$root")
}

debian_folder() { echo "$SANDBOX_HOME/debian/$1-$DEBIAN_RECIPE"; }

# Its programs name the folder they are in, so a copy somewhere else will not do.
debian_prepared() {
    local folder made_for=''
    folder=$(debian_folder "$1")
    read -r made_for 2>/dev/null <"$folder/stamp" || true
    [[ $made_for == "$folder" ]]
}

# debian_prefix NAME SUITE PACKAGE...: make the folder that holds the packages, if it is not there.
# A half-made folder has another name, and what was downloaded is kept until the folder is complete.
debian_prefix() {
    local name=$1 suite=$2 final work root
    shift 2
    debian_prepared "$name" && return
    final=$(debian_folder "$name")
    work=$final.work
    root=$work/root
    lock "$final.lock" "prepares $name"
    if ! debian_prepared "$name"; then
        say "preparing $name from Debian packages, once ..."
        debian_apt_config "$work"
        debian_update "$work" "$suite"
        debian_download "$work" "$@"
        debian_unpack "$work/archives" "$root"
        debian_patch "$root" "$final"
        debian_zoneinfo "$root"
        debian_node "$root"
        debian_fonts "$root" "$final"
        rm -rf "$final"
        mv "$root" "$final"
        debian_verify "$final"
        (cd "$work/archives" && printf '%s\n' "$final" *.deb) >"$final/stamp.new"
        mv "$final/stamp.new" "$final/stamp"
        rm -rf "$work"
    fi
    unlock
}
