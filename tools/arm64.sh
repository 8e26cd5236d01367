#!/usr/bin/env bash
# The extensions compiled for arm64, and the test suite there, emulated:
#     tools/arm64.sh [pytest arguments]
# Needs python3.11, qemu-user-static, gcc-aarch64-linux-gnu, and a Debian mirror in apt's configuration or MIRROR.
# WORK=DIRECTORY keeps what is downloaded.
. "$(dirname "$0")/common.sh"

needs python3.11 qemu-aarch64-static aarch64-linux-gnu-gcc
root=$WORK/arm64
site=$WORK/venv/lib/python3.11/site-packages

if [ ! -d "$root" ]; then
    from_debian bookworm arm64 install --yes --download-only python3 libgomp1
    for package in "$WORK"/apt-bookworm-arm64/cache/archives/*.deb; do
        dpkg --extract "$package" "$root"
    done
fi

copy "$WORK/fastloss"
environment python3.11 "$WORK/build" cython numpy setuptools
(
    cd "$WORK/fastloss"
    # the headers are those of the Python at hand: the same types are as large there
    _PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so \
        CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" \
        "$WORK/build/bin/python" setup.py --quiet egg_info build_ext --inplace
)

mkdir -p "$WORK/venv/bin" "$site"
echo "home = $root/usr/bin" >"$WORK/venv/pyvenv.cfg"
"$WORK/build/bin/pip" install --quiet --upgrade --target "$site" --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    hypothesis ml_dtypes mpmath numpy pytest scipy
echo "$WORK/fastloss" >"$site/fastloss.pth"
# the tests read the machine code
ln -sf "$(command -v aarch64-linux-gnu-objdump)" "$WORK/venv/bin/objdump"
export PATH=$WORK/venv/bin:$PATH
emulate "$WORK/venv" "$root/usr/bin/python3.11" qemu-aarch64-static -L "$root"
suite "$WORK/venv" "$WORK/fastloss" "$@"
