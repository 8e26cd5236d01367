#!/usr/bin/env bash
# The lines and branches of the Python and the lines of the Cython that the tests run: fails below 100 %. Uses the
# libraries of the active environment, which has the frameworks (pip install -e ".[frameworks,test]"), and coverage.
#     tools/coverage.sh [pytest arguments]
. "$(dirname "$0")/common.sh"

copy "$WORK/fastloss"
cd "$WORK/fastloss"
cat >"$WORK/cc" <<'EOF'
#!/bin/sh
exec gcc "$@" -O1 -fno-early-inlining --coverage
EOF
chmod +x "$WORK/cc"
FASTLOSS_BUILDS=native CC=$WORK/cc LDSHARED="$WORK/cc -shared" python setup.py --quiet build_ext --inplace
# as Python, which it is: its branches count, too
rm fastloss/backends/torch.*.so

left_out=(
    # they would measure the counting, its allocations among them
    --ignore tests/test_instructions.py
    --ignore tests/test_faults.py
    --deselect tests/test_imports.py::test_the_import_takes_no_time
    --deselect tests/test_builds.py::test_every_loop_is_vectorised
    --deselect tests/test_builds.py::test_no_loss_takes_much_code
    # what takes minutes, and runs no line that others do not
    --ignore tests/test_house.py
    --ignore tests/test_leaks.py
    --ignore tests/test_matrix.py
    --deselect tests/test_accuracy.py::test_the_sum_of_a_hundred_million
    --deselect tests/test_inputs.py::test_more_than_2_to_31_elements
    --deselect tests/test_interrupts.py::test_the_handler_decides
    --deselect tests/test_interrupts.py::test_a_call_of_another_thread_goes_on
    # its children end by _exit, and tell gcov nothing
    --ignore tests/test_processes.py
    # threads that count in the same place are a hundred times slower
    --deselect tests/test_structured.py::test_same_bits
    --deselect tests/test_threads.py::test_same_bits
)
counted() {
    OMP_NUM_THREADS=1 python -m coverage run -m pytest -q -p no:cacheprovider "${left_out[@]}" "$@"
}
# what each loss has of its own; of all other tests of losses every sixth case
own=(tests/test_{halves,hessians,links,range,validate}.py)
counted "${own[@]}" "$@"
counted --losses 6 "${own[@]/#/--ignore=}" --ignore tests/test_interrupts.py "$@"
# which measures times: alone, and again without threads that count in the same place
counted tests/test_interrupts.py -k "not -2]"
python -m coverage combine --quiet
status=0
python -m coverage report || status=1
python tools/cython_lines.py . || status=1
exit $status
