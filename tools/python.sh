#!/usr/bin/env bash
# The test suite under another Python, in an environment of its own:
#     tools/python.sh python3.13 [pytest arguments]
. "$(dirname "$0")/common.sh"

python=$1
shift
copy "$WORK/fastloss"
environment "$python" "$WORK/venv" -e "$WORK/fastloss[test]"
suite "$WORK/venv" "$WORK/fastloss" "$@"
