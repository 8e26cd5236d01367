#!/usr/bin/env bash
# The lines and branches of the Python and the lines of the Cython that the tests run: fails below 100 %. Uses the
# libraries of the active environment, which has the frameworks (pip install -e ".[frameworks,test]"), and coverage.
#     tools/coverage.sh [pytest arguments]
. "$(dirname "$0")/common.sh"

copy "$WORK/fastloss"
cd "$WORK/fastloss"
cat >"$WORK/cc" <<'EOF'
#!/bin/sh
exec gcc "$@" -O1 --coverage
EOF
chmod +x "$WORK/cc"
CC=$WORK/cc LDSHARED="$WORK/cc -shared" python setup.py --quiet build_ext --inplace
# as Python, which it is: its branches count, too
rm fastloss/backends/torch.*.so

# what counts instructions and times the import would count the counting
python -m coverage run -m pytest -q -p no:cacheprovider \
    --ignore tests/test_instructions.py --deselect tests/test_imports.py::test_the_import_takes_no_time \
    --deselect tests/test_builds.py::test_every_loop_is_vectorised "$@"
python -m coverage combine --quiet
status=0
python -m coverage report || status=1
python tools/cython_lines.py . || status=1
exit $status
