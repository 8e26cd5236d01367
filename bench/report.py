"""Makes a table and a plot of the results of compare.py: python report.py results.json --plot speed.svg > speed.md

The plot comes twice, for a light and for a dark ground: speed-light.svg and speed-dark.svg. The ratio of a case is the
time of the best peer, whichever that is, to that of fastloss.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import geometric_mean
from typing import Any

US = "fastloss"
GROUNDS = {"light": "default", "dark": "dark_background"}


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table whose first row is its head; all columns but the first hold numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in [rows[0], rule, *rows[1:]]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def best_peer(times: dict[str, float]) -> tuple[str, float]:
    """Return the fastest contender but fastloss, and its time in fastloss's."""
    name, time = min((item for item in times.items() if item[0] != US), key=lambda item: item[1])
    return name, time / times[US]


def case_name(case: dict[str, Any]) -> str:
    return f"{case['loss']} {case['dtype']} {'x'.join(map(str, case['shape']))}"


def report(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    cases = [case for case in results["cases"] if len(case["times"]) > 1]
    names = list(dict.fromkeys(name for case in cases for name in case["times"]))
    rows = [["value and gradient, µs", *names, "best peer", "ratio"]]
    for case in cases:
        times, (peer, ratio) = case["times"], best_peer(case["times"])
        cells = (f"{times[name] * 1e6:,.1f}" if name in times else "" for name in names)
        rows.append([case_name(case), *cells, peer, f"{ratio:.2f}"])
    lines = [", ".join(f"{name} {fact}" for name, fact in results["header"].items()), ""]
    if results["missing"]:
        lines += [f"Not installed, and left out: {', '.join(results['missing'])}.", ""]
    lines += [table(rows), ""]
    lines += [
        f"Geometric mean of the best peer over fastloss: {geometric_mean(best_peer(c['times'])[1] for c in cases):.2f}."
    ]
    for name in names[1:]:
        ratios = [case["times"][name] / case["times"][US] for case in cases if name in case["times"]]
        lines.append(f"{name} over fastloss: {geometric_mean(ratios):.2f} in {len(ratios)} cases.")
    slower = [case_name(case) for case in cases if best_peer(case["times"])[1] < 1]
    lines += ["", f"Slower than the best peer in {len(slower)} of {len(cases)}: {'; '.join(slower) or 'none'}."]
    calls = results["calls"]
    add, *others = calls
    lines += ["", f"8 float32, L2Loss: {add} {calls[add] * 1e9:.0f} ns"]
    lines += [f"{call} {calls[call] * 1e9:.0f} ns, {calls[call] / calls[add]:.2f} times as long" for call in others]
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the ratio to the best peer over the size, on a light and on a dark ground."""
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastloss", "font.size": 9}
    metadata = {"Date": None} if path.suffix == ".svg" else None
    for ground, name in GROUNDS.items():
        with style.context(name), mpl.rc_context(settings):
            figure = Figure(figsize=(9, 3.8), layout="constrained")
            draw(results, figure)
            figure.savefig(path.with_stem(f"{path.stem}-{ground}"), transparent=True, metadata=metadata)


def draw(results: dict[str, Any], figure: Any) -> None:
    """Draw a panel for each dtype, and in it a line for each loss that both dtypes have: others have a single size."""
    dtypes = sorted({case["dtype"] for case in results["cases"]})
    of_dtype = [{case["loss"] for case in results["cases"] if case["dtype"] == dtype} for dtype in dtypes]
    shared = set.intersection(*of_dtype)
    losses = list(dict.fromkeys(case["loss"] for case in results["cases"] if case["loss"] in shared))
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        for number, loss in enumerate(losses):
            points = sorted(
                (math.prod(case["shape"]), best_peer(case["times"])[1])
                for case in results["cases"]
                if case["loss"] == loss and case["dtype"] == dtype and len(case["times"]) > 1
            )
            # the dark style has 8 colours
            line = "o-" if number < 8 else "^:"
            axes.plot(*zip(*points, strict=True), line, color=f"C{number % 8}", markersize=3, linewidth=1.2, label=loss)
        axes.axhline(1, color="0.5", linewidth=1, linestyle="--")
        axes.set(xscale="log", yscale="log", title=dtype, xlabel="numbers in pred")
        axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axes.minorticks_off()
        axes.grid(color="0.5", alpha=0.3)
    panels[0][0].set_ylabel("time of the fastest peer / fastloss")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="the file that compare.py wrote")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw FILE-light and FILE-dark, .svg or .png")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    print(report(results))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
