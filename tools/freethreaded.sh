#!/usr/bin/env bash
# The test suite on CPython without the global lock, each test in one thread, and in four at a time:
#     tools/freethreaded.sh [pytest arguments]
# PYTHON=python3.14t names the interpreter; without it, 3.13 is built of Debian's source package (5 minutes).
# WORK=DIRECTORY keeps it.
. "$(dirname "$0")/common.sh"

# Debian has no package of it.
build_python() {
    mkdir -p "$WORK/source"
    cd "$WORK/source"
    from_debian trixie "$(dpkg --print-architecture)" source --download-only python3.13
    tar --strip-components=1 -xf python3.13_*.orig.tar.xz
    ./configure --quiet --disable-gil --prefix="$WORK/python"
    make -s -j "$(nproc)"
    make -s install
}

if [ -z "${PYTHON-}" ]; then
    PYTHON=$WORK/python/bin/python3.13t
    [ -x "$PYTHON" ] || (build_python)
fi

copy "$WORK/fastloss"
# not the test extra: mypy and ruff have no wheels for it
environment "$PYTHON" "$WORK/venv" -e "$WORK/fastloss[demo]" hypothesis ml_dtypes mpmath pytest pytest-run-parallel
# to import an extension that does not declare itself free of the lock brings it back, with a warning
"$WORK/venv/bin/python" -P -W error -c "
import sys, fastloss
assert not sys._is_gil_enabled()
"
suite "$WORK/venv" "$WORK/fastloss" -p no:run-parallel "$@"
suite "$WORK/venv" "$WORK/fastloss" --parallel-threads=4 "$@"
