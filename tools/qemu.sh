#!/usr/bin/env bash
# The test suite on an older x86-64 CPU, emulated: Nehalem gets the baseline build, Haswell that of x86_64_v3.
#     tools/qemu.sh Nehalem|Haswell [pytest arguments]
# Needs qemu-user-static; takes some ten times as long as without.
. "$(dirname "$0")/common.sh"

needs qemu-x86_64-static
declare -A builds=([Nehalem]=baseline [Haswell]=x86_64_v3)
cpu=$1
build=${builds[$cpu]}
shift

copy "$WORK/fastloss"
environment python3 "$WORK/venv" -e "$WORK/fastloss[test]"
emulate "$WORK/venv" "$("$WORK/venv/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" \
    qemu-x86_64-static -cpu "$cpu"
"$WORK/venv/bin/python" -c "
from fastloss import _isa
assert _isa.name == '$build', _isa.name
"
suite "$WORK/venv" "$WORK/fastloss" "$@"
