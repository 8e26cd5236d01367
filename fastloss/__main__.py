"""The command line: ``python -m fastloss demo`` and ``python -m fastloss info``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastloss import show_config


def main() -> None:
    """Runs the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m fastloss", description="Loss functions on the CPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print the versions, the build and the threads in use")
    demo = commands.add_parser("demo", help="fit three models to real data and draw the losses")
    demo.add_argument("--output", type=Path, default=Path("fastloss_losses.png"), help="the picture (%(default)s)")
    arguments = parser.parse_args()
    if arguments.command == "info":
        show_config()
    else:
        run_demo(arguments.output)


def run_demo(output: Path) -> None:
    """Runs the demo, whose libraries fastloss itself does without."""
    try:
        from fastloss.demo import run
    except ModuleNotFoundError as error:
        sys.exit(
            f'the demo needs {error.name}, which is not installed: pip install -e ".[demo]" in a checkout of fastloss'
        )
    try:
        run(output)
    except OSError as error:
        sys.exit(f"the demo failed: {error}")


if __name__ == "__main__":
    main()
