#!/usr/bin/env bash
# The test suite under a Python of Debian's unstable suite, in a root of its own (1 GB, some minutes to make):
#     sudo tools/debian_python.sh 3.14 [pytest arguments]
# Needs root, debootstrap, and a Debian mirror in apt's configuration. WORK=DIRECTORY keeps the root.
. "$(dirname "$0")/common.sh"

[ "$(id -u)" = 0 ] || { echo "$0 needs root: it makes a root file system and enters it" >&2; exit 1; }
needs debootstrap unshare
python=python$1
root=$WORK/sid
shift

# what is mounted in a namespace of its own goes with the process
if [ ! -e "$root/etc/debian_version" ]; then
    unshare --mount debootstrap --variant=minbase --include=ca-certificates sid "$root" "$(mirror)"
fi
mount_and_enter='mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev/shm" && exec chroot "$0" "$@"'
enter=(unshare --mount sh -c "$mount_and_enter" "$root")

cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
# the certificates that this machine trusts
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt DEBIAN_FRONTEND=noninteractive

if [ ! -x "$root/usr/bin/$python" ]; then
    # a frozen mirror's lists are past their date
    "${enter[@]}" apt-get -qq -o Acquire::Check-Valid-Until=false update
    "${enter[@]}" apt-get -qq install --no-install-recommends "$python-venv" "$python-dev" g++ binutils >/dev/null
fi
copy "$root/fastloss"
environment "$python" "/venv-$python" -e "/fastloss[test]"
suite "/venv-$python" /fastloss "$@"
