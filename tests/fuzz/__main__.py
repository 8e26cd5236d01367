"""Calls that nobody thought of: python -m tests.fuzz --seconds 60

Hypothesis draws calls of every loss: shapes, labels, lengths, dtypes, layouts, weights, reductions, threads, buffers,
and in every other one a mistake. A good call must return what the reference does, and to the last bit what a plain call
of contiguous arrays on one thread does; a bad one must raise the right exception, name the argument, and leave out as
it was. No input may change, and nothing may warn.

The calls are made in a process of their own. If that fails or dies, its last call is printed; --call repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

import fastloss as fl
from tests.fuzz.call import Call
from tests.fuzz.draws import SEED, calls
from tests.fuzz.run import run


def worker(seconds: float, most: int, first_seed: int, trace: Path) -> int:
    """Draws and makes calls until the time is over, in rounds of so many; the file has the last one, come what may."""
    warnings.simplefilter("error")
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with trace.open("w", encoding="utf-8") as last:

        @settings(
            max_examples=most,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(calls())
        def check(call: Call) -> None:
            last.seek(0)
            last.write(repr(call))
            last.truncate()
            last.flush()
            outcomes[run(call)] += 1

        try:
            for k in itertools.count():
                seed(first_seed + k)(check)()
                if time.monotonic() > end:
                    break
        except Exception:
            traceback.print_exc()
            return 1
    for outcome, count in outcomes.most_common():
        print(f"{outcome:22} {count:>10,}")
    print(f"{'calls':22} {outcomes.total():>10,}", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--round", type=int, default=2000, help="calls between two looks at the clock")
    parser.add_argument("--seed", type=int, help="of the first round; a fresh one if not given")
    parser.add_argument("--call", help="make this one call, as it was printed")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call is not None:
        warnings.simplefilter("error")
        print(run(eval(arguments.call, {"Call": Call, "nan": np.nan, "inf": np.inf})))
        return 0
    first_seed = random.SystemRandom().randrange(SEED) if arguments.seed is None else arguments.seed
    if arguments.worker is not None:
        return worker(arguments.seconds, arguments.round, first_seed, arguments.worker)
    print(f"seed {first_seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "last")
        trace.touch()
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz", f"--worker={trace}"]
        command += [f"--seed={first_seed}", f"--seconds={arguments.seconds}", f"--round={arguments.round}"]
        code = subprocess.run(command, check=False).returncode
        if code:
            call = trace.read_text(encoding="utf-8")
            print(f"exit code {code}; the last call, with fastloss {fl.__version__} and NumPy {np.__version__}:")
            print(f'python -m tests.fuzz --call "{call}"', flush=True)
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
