# Shared by the scripts beside it, which source it: installs what a fresh Debian or Ubuntu machine lacks, and makes the
# virtual environment in .venv. Everything here can run again at any time, and does only what is still missing.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit

# If .venv is active, `python3` is the one in it: it would be deleted while it makes the new .venv.
PATH=:$PATH:
while [[ $PATH == *":$root/.venv/bin:"* ]]; do PATH=${PATH/":$root/.venv/bin:"/:}; done
PATH=${PATH#:}
PATH=${PATH%:}

missing=()
python=
distribution_python=/usr/bin/python3

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Servers are in directories that are not on every user's PATH.
have() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# Two scripts at once in one checkout: the second waits until the first has set everything up.
lock() {
    have flock || return 0
    exec {lock_file}<"$root/scripts/lib.sh"
    flock --nonblock "$lock_file" || {
        say "another script is setting this checkout up; waiting for it"
        flock "$lock_file"
    }
}
unlock() {
    have flock || return 0
    exec {lock_file}<&-
}

# need PACKAGE WHY: note that a package must be installed.
need() {
    say "$1 is not installed: $2"
    missing+=("$1")
}
need_program() { have "$1" || need "$2" "$3"; }

# Find the named Python, or else one that can make a virtual environment, or else any. The distribution's has precedence:
# it is built with profile-guided optimisation, which makes a message a tenth cheaper, unlike many others.
find_python() {
    if [ -n "${HELIOGRAPH_PYTHON-}" ]; then
        is_python "$HELIOGRAPH_PYTHON" || die "HELIOGRAPH_PYTHON=$HELIOGRAPH_PYTHON is no Python 3.11 or newer."
        python=$HELIOGRAPH_PYTHON
        return
    fi
    local modules candidate
    for modules in "ensurepip, venv" sys; do
        for candidate in "$distribution_python" python3 python3.14 python3.13 python3.12 python3.11; do
            if is_python "$candidate" "$modules"; then
                python=$candidate
                return
            fi
        done
    done
    return 1
}

# is_python PROGRAM [MODULES]: it is a Python that is new enough, and has these modules.
is_python() { "$1" -c "import sys, ${2:-sys}; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; }

need_python() {
    if ! find_python; then
        have python3 && die "Python 3.11 or newer is needed, this machine has $(python3 -V)." \
            "Name another with HELIOGRAPH_PYTHON=…"
        need python3 "Heliograph is written in it"
        need python3-venv "the packages Heliograph uses go into a directory of their own"
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        need_of_python venv "the packages Heliograph uses go into a directory of their own"
    fi
}

# need_of_python PART WHY: note that the package with this part of $python has to be installed. One that the distribution
# has not made has no such package.
need_of_python() {
    local place
    place=$(command -v "$python")
    [ "${place%/*}" -ef "${distribution_python%/*}" ] ||
        die "$place lacks the content of the package python3-$1 of the distribution's Python: $2." \
            "Install that, or name another with HELIOGRAPH_PYTHON=…"
    need "${python##*/}-$1" "$2"
}

need_compiler() {
    need_program cc gcc "the modules on the way of a message are compiled"
    [ -e /usr/include/stdio.h ] || need libc6-dev "what is compiled needs its headers"
    local headers='import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
    if [ -z "$python" ]; then
        need python3-dev "what is compiled needs its headers"
    elif ! "$python" -c "$headers"; then
        need_of_python dev "what is compiled needs its headers"
    fi
}

need_zlib() { [ -e /usr/include/zlib.h ] || need zlib1g-dev "the load client inflates what is compressed"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@" # there is nobody to ask for a password
    fi
}

# Install the packages that were found missing, if any.
install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    have apt-get || die "This machine has no apt-get. Install these yourself: ${missing[*]}"
    [ "$(id -u)" = 0 ] || have sudo ||
        die "Only root can install packages, and there is no sudo. As root: apt-get install ${missing[*]}"

    say "installing with apt-get: ${missing[*]}"
    trap let_services_start EXIT
    keep_services_from_starting
    as_root apt-get -qq update </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        install --yes --no-install-recommends "${missing[@]}" </dev/null >/dev/null
    let_services_start
    trap - EXIT
    leave_services_disabled
    missing=()
}

# Heliograph starts its own Redis and nginx, as ordinary processes. The packages would start theirs as well: at once,
# unless this file says no, …
policy=/usr/sbin/policy-rc.d
policy_is_ours=
keep_services_from_starting() {
    [ ! -e $policy ] || return 0
    policy_is_ours=yes
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
}
let_services_start() {
    [ -z "$policy_is_ours" ] || as_root rm -f $policy
    policy_is_ours=
}
# … and at every boot.
leave_services_disabled() {
    local package
    have systemctl || return 0
    for package in "${missing[@]}"; do
        case $package in
            redis-server) as_root systemctl --quiet disable redis-server || true ;;
            nginx-light) as_root systemctl --quiet disable nginx || true ;;
        esac
    done
}

# make_venv run|loadtest|dev: bring .venv up to date. A new one is made for another Python, or after the checkout has moved;
# packages are installed when pyproject.toml or constraints.txt has changed.
make_venv() {
    find_python || die "Python 3.11 or newer is needed, this machine has $(python3 -V)."
    local extras=server groups=(compile)
    [ "$1" = run ] || extras=server,loadtest
    [ "$1" != dev ] || groups=(dev)
    local made_for wanted
    made_for=$("$python" -c 'import sys; print(sys.executable, sys.version)')" in $root"
    wanted=$(cat pyproject.toml constraints.txt | sha256sum)

    if [ "$(cat .venv/made-for 2>/dev/null)" != "$made_for" ]; then
        say "making the virtual environment .venv with $("$python" -V)"
        # A .venv that this script did not make, or did not finish, is completed, not deleted.
        [ ! -e .venv/made-for ] || rm -rf .venv
        "$python" -m venv .venv
        printf '%s\n' "$made_for" >.venv/made-for
    fi
    # "dev" includes the packages of the others, and each of them those of "run".
    local sets="$1 dev"
    [ "$1" != run ] || sets="run loadtest dev"
    local set installed
    installed=$(cat .venv/packages 2>/dev/null || true)
    for set in $sets; do
        [ "$installed" != "$set $wanted" ] || return 0
    done
    say "installing the pinned Python packages into .venv"
    rm -f .venv/packages
    local install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt)
    "${install[@]}" pip # the one that comes with Python may know no dependency groups
    "${install[@]}" "${groups[@]/#/--group=}" -e ".[$extras]"
    printf '%s\n' "$1 $wanted" >.venv/packages
}

# compile_package [--later]: let what this script starts run from a copy of the package in which the modules on the way of a
# message are compiled, once there is one made of these very sources; PYTHONPATH names it. With --later a missing one is made
# in the background, for the next start. The checkout itself holds nothing compiled, so an edited file never runs stale.
compile_package() {
    local digest tree
    digest=$(source_digest)
    tree=build/compiled/$digest
    if [ ! -d "$tree" ]; then
        if [ "${1-}" = --later ]; then
            say "compiling the modules on the path of a message in the background, for the next start (--no-compile: never)"
            (
                unlock # other scripts need not wait for it
                compile_unless_ended "$tree" $$
            ) </dev/null &
            return
        fi
        say "compiling the modules on the path of a message, once for these sources"
        compile_with_progress "$tree"
    fi
    # Files that are not compiled, such as the console's and the JavaScript client's, may have changed since.
    cp -R app/heliograph "$tree"
    cp -R clients/js/src/. "$tree/heliograph/console/static"
    export PYTHONPATH="$root/$tree${PYTHONPATH:+:$PYTHONPATH}"
}

# Print what decides whether a compiled copy is still valid.
source_digest() {
    {
        .venv/bin/python -VV
        cat setup.py constraints.txt
        find app/heliograph -name '*.py' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -c 1-16
}

compile_with_progress() {
    local started=$SECONDS builder
    build_tree "$1" &
    builder=$!
    # shellcheck disable=SC2064 # the value of now
    trap "kill $builder 2>/dev/null" TERM
    while kill -0 "$builder" 2>/dev/null; do
        if [ -t 1 ]; then printf '\r    %d s' $((SECONDS - started)); fi
        sleep 1
    done
    if [ -t 1 ]; then printf '\r'; fi
    wait "$builder" || die "the modules could not be compiled; build/log has the compiler's output"
}

# compile_unless_ended TREE PROCESS: compile while that process is alive: the script's own, which becomes the program.
compile_unless_ended() {
    local builder
    build_tree "$1" &
    builder=$!
    while kill -0 "$builder" 2>/dev/null; do
        kill -0 "$2" 2>/dev/null || kill "$builder" 2>/dev/null || true
        sleep 1
    done
    if wait "$builder"; then
        say "compiled; the next start uses it"
    elif kill -0 "$2" 2>/dev/null; then
        say "the modules could not be compiled (build/log says why); the sources run instead"
    fi
}

# build_tree TREE: put a compiled copy of the package into that directory, whole or not at all. Of two at once the second
# waits for the first, and takes what that has made.
build_tree() {
    local made=build/tmp.$BASHPID compiler build_lock
    mkdir -p build/compiled
    if have flock; then
        exec {build_lock}>build/lock
        flock "$build_lock"
    fi
    [ ! -d "$1" ] || return 0
    HELIOGRAPH_COMPILE=1 HELIOGRAPH_COMPILE_DIR="$made/c" nice .venv/bin/python setup.py --quiet \
        build --build-base "$made" --build-lib "$made/lib" >build/log 2>&1 &
    compiler=$!
    # shellcheck disable=SC2064 # the values of now
    trap "kill $compiler; rm -rf '$made'" TERM
    if wait "$compiler" && mv -T "$made/lib" "$1"; then
        rm -rf "$made"
        find build/compiled -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} +
        return
    fi
    rm -rf "$made"
    return 1
}
