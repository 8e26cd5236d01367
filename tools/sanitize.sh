#!/usr/bin/env bash
# Runs tests on extensions that gcc built with its sanitizers, with the Python and the libraries of the active
# environment, pytest-xdist among them, and fails if there is a report:
#     tools/sanitize.sh address [pytest arguments]    AddressSanitizer and UndefinedBehaviorSanitizer, the suite
#     tools/sanitize.sh thread                        ThreadSanitizer, calls of one thread from several Python threads
. "$(dirname "$0")/common.sh"

case ${1:-} in
address)
    # a cast out of range is undefined, too; a division by 0 is not, and has the infinity that a loss is to have
    sanitizers=address,undefined,float-cast-overflow
    libraries="libasan.so libubsan.so"
    ;;
thread)
    sanitizers=thread
    libraries=libtsan.so
    ;;
*)
    echo "usage: tools/sanitize.sh address|thread" >&2
    exit 2
    ;;
esac

copy "$WORK/fastloss"
cd "$WORK/fastloss"

# the last flag of a kind counts: these stand behind those of setup.py, which ask for more optimisation and no line
# numbers, and of Python, by which a signed overflow is defined. The sanitizers see what fortified functions hide.
cat >"$WORK/cc" <<EOF
#!/bin/sh
exec gcc "\$@" -O1 -g1 -fno-wrapv -U_FORTIFY_SOURCE -fno-omit-frame-pointer -fsanitize=$sanitizers -fno-sanitize-recover=all
EOF
chmod +x "$WORK/cc"
FASTLOSS_BUILDS=native CC=$WORK/cc LDSHARED="$WORK/cc -shared" python setup.py --quiet build_ext --inplace

# Runs a command with the sanitizers' libraries, and prints what they report, also in processes that it started.
sanitized() {
    local preload="" status=0 library report
    for library in $libraries; do
        preload+=" $(gcc -print-file-name="$library")"
    done
    rm -f "$WORK"/report.*
    # Python's own allocator gives out parts of larger blocks, whose ends nobody watches; leaks have tests of their own
    LD_PRELOAD=$preload PYTHONMALLOC=malloc \
        ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path="$WORK/report" \
        UBSAN_OPTIONS=print_stacktrace=1:log_path="$WORK/report" \
        TSAN_OPTIONS=log_path="$WORK/report" \
        "$@" || status=$?
    for report in "$WORK"/report.*; do
        [ -e "$report" ] || continue
        # more memory than there is is asked for on purpose
        grep -qv "WARNING: AddressSanitizer failed to allocate" "$report" || continue
        cat "$report"
        status=1
    done
    return "$status"
}

check_address() {
    local left_out=(
        # programs that read machine code, and one that runs it
        --deselect tests/test_builds.py::test_every_loop_is_vectorised
        --deselect tests/test_builds.py::test_no_loss_takes_much_code
        --ignore tests/test_instructions.py
        # sources alone
        --ignore tests/test_house.py
        # an allocator of their own, or numbers of the system's
        --ignore tests/test_faults.py
        --ignore tests/test_leaks.py
        # limits on memory, of which the sanitizer takes a multiple
        --deselect tests/test_processes.py::test_threads_that_the_system_refuses
        --deselect tests/test_threads.py::test_a_small_stack_is_enough
        --deselect tests/test_dask.py::test_more_than_fits_on_a_cluster
        # JAX compiles these programs for minutes; tests/test_jax.py makes the same calls on one device
        --ignore tests/test_jax_sharding.py
        # times
        --deselect tests/test_threads.py::test_a_busy_neighbour
        --deselect tests/test_imports.py::test_the_import_takes_no_time
    )
    sanitized python -m pytest -q -n 2 -p no:cacheprovider "${left_out[@]}" "$@"
}

# OpenMP's barriers are unknown to the sanitizer: with more threads in a call it would take their order for none
check_thread() {
    OMP_NUM_THREADS=1 sanitized python - <<EOF
from tests.processes import many_callers
calls, wrong = many_callers(callers=16, most=1)
print(f"{calls} calls, {len(wrong)} with other bits")
assert not wrong
EOF
}

"check_$1" "${@:2}"
