# shellcheck shell=bash
# Sourced by the scripts beside it: a directory to work in, a copy of this checkout, and the test suite in it.
# WORK=DIRECTORY keeps what takes long to make for the next run; without it all is made anew, and removed at the end.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
enter=()                   # the command that enters another root, where the suite runs in one
export PIP_PREFER_BINARY=1 # of a library whose newest version has no wheel, the one before

if [ -n "${WORK-}" ]; then
    mkdir -p "$WORK"
    WORK=$(cd "$WORK" && pwd)
else
    WORK=$(mktemp -d)
    trap 'rm -rf --one-file-system "$WORK"' EXIT
fi

# needs COMMAND...
needs() {
    for command in "$@"; do
        command -v "$command" >/dev/null || { echo "$0 needs $command" >&2; exit 1; }
    done
}

# copy DIRECTORY: what git knows or would add, so that nothing is built in the checkout
copy() {
    rm -rf "$1"
    mkdir -p "$1"
    git -C "$checkout" ls-files -z --cached --others --exclude-standard |
        tar -C "$checkout" --create --null --files-from=- --ignore-failed-read --warning=no-failed-read |
        tar -C "$1" --extract
}

# environment PYTHON VENV REQUIREMENT...: a fresh one
environment() {
    local python=$1 venv=$2
    shift 2
    "${enter[@]}" "$python" -m venv --clear "$venv"
    "${enter[@]}" "$venv/bin/pip" install --quiet --upgrade "$@"
}

# emulate VENV PYTHON EMULATOR...: the environment's Python becomes PYTHON under an emulator, in subprocesses, too
emulate() {
    local venv=$1 python=$2
    shift 2
    rm -f "$venv/bin/python"
    # by the name that it was called with Python finds its environment, and itself
    printf '#!/bin/sh\nexec %s -0 "%s" "%s" "$@"\n' "$*" "$venv/bin/python" "$python" >"$venv/bin/python"
    chmod +x "$venv/bin/python"
}

# suite VENV COPY [PYTEST ARGUMENT...]
suite() {
    local venv=$1 copy=$2
    shift 2
    "${enter[@]}" env --chdir="$copy" "$venv/bin/python" -m pytest "$@"
}

# mirror: Debian's, from MIRROR or this machine's configuration of apt
mirror() {
    local uri=${MIRROR-$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | head -n 1)}
    [ -n "$uri" ] || { echo "$0 needs MIRROR=URI of a Debian mirror" >&2; return 1; }
    echo "$uri"
}

# from_debian SUITE ARCHITECTURE ARGUMENT...: apt-get as if nothing were installed, which needs no root; files come here
from_debian() {
    local suite=$1 architecture=$2 apt=$WORK/apt-$1-$2 uri
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    shift 2
    local options=(-qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache")
    if [ ! -d "$apt" ]; then
        uri=$(mirror)
        mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
        printf "%s [signed-by=$keys] $uri $suite main\n" deb deb-src >"$apt/sources.list"
        apt-get "${options[@]}" update
    fi
    apt-get "${options[@]}" "$@"
}
