"""Which lines of the Cython sources have run, by what gcov counted in the C that Cython wrote of them.

python tools/cython_lines.py FOLDER: with extensions that gcc built with --coverage in place, and run. It fails where a
line has not run. A trace of Cython's own would take Python's lock at each line of a loop that has none.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# that Cython writes before the C of a line, and what ends it
MARK = re.compile(r'\s*/\* "([\w/]+\.(?:pyx|pxd|pxi))":(\d+)')
END = re.compile(r"\s*/\* (?:function exit code|finally:|.*(?:\.py|\.pxd|\.pyx)\":\d+)")
# where C goes to from elsewhere, whatever has run before
LABEL = re.compile(r"\s*(?:__pyx_L\w+:;?|\}|\})\s*$")
# the first line of a function's head, and what says why not
EXCLUDED = re.compile(r"\s*(cp?def|def)\b([^=]*,|.*:)\s*$|.*# no cover: ")

Place = tuple[str, int]


def places(c_file: Path) -> dict[int, Place]:
    """The Cython line of each line of C that has one."""
    found: dict[int, Place] = {}
    place: Place | None = None
    for number, text in enumerate(c_file.read_text(encoding="utf-8").splitlines(), 1):
        mark = MARK.match(text)
        if mark:
            place = mark[1], int(mark[2])
        elif END.match(text):
            place = None
        elif place and not LABEL.match(text):
            found[number] = place
    return found


def c_counts(folder: Path) -> dict[Path, dict[int, int]]:
    """How often each line of C has run."""
    counts: dict[Path, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    with tempfile.TemporaryDirectory() as scratch:
        data = [str(path.resolve()) for path in folder.glob("build/temp*/**/*.gcda")]
        subprocess.run(
            ["gcov", "--json-format", "--hash-filenames", *data], cwd=scratch, check=True, capture_output=True
        )
        for report in Path(scratch).glob("*.gcov.json.gz"):
            for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
                if file["file"].startswith("build/c/"):
                    for line in file["lines"]:
                        counts[folder / file["file"]][line["line_number"]] += line["count"]
    return counts


def main() -> int:
    folder = Path(sys.argv[1])
    ran: dict[Place, int] = defaultdict(int)
    for c_file, counts in c_counts(folder).items():
        where = places(c_file)
        for number, count in counts.items():
            if number in where:
                ran[where[number]] += count
    files: dict[str, dict[int, int]] = defaultdict(dict)
    for (name, number), count in sorted(ran.items()):
        files[name][number] = count
    missed = 0
    for name, lines in files.items():
        text = (folder / name).read_text(encoding="utf-8").splitlines()
        never = [n for n, count in lines.items() if not count and not EXCLUDED.match(text[n - 1])]
        missed += len(never)
        print(
            f"{name}: {len(lines) - len(never)} of {len(lines)} lines",
            *(f"{n:6} {text[n - 1]}" for n in never),
            sep="\n",
        )
    print(f"{missed} of {len(ran)} lines of Cython have not run")
    return 1 if missed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
