"""The command line: ``python -m fastloss`` lists its commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastloss import _peers, show_config

# what each demo shows, and the extras that it needs
DEMOS = {
    "losses": ("fit three models to real data and draw the losses", "demo"),
    "linear": ("fit a logistic regression of data that no cache holds, beside scikit-learn", "demo"),
    "boosting": ("boost trees in XGBoost or LightGBM, beside their own objectives", "boosting,demo"),
}


def main() -> None:
    """Runs the command that the arguments name; without one, lists the commands."""
    parser = argparse.ArgumentParser(prog="python -m fastloss", description="Loss functions on the CPU.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("info", help="print the versions, the build and the threads in use")
    tasks = "; ".join(f"{name}: {what}" for name, (what, _) in DEMOS.items())
    demo = commands.add_parser("demo", help=f"show what the losses are good for ({tasks})", description=f"{tasks}.")
    demo.add_argument("task", nargs="?", choices=DEMOS, default="losses", help="what to show (%(default)s)")
    picture = Path("fastloss_losses.png")
    demo.add_argument("--output", type=Path, default=picture, help="the picture that losses draws (%(default)s)")
    which = commands.add_parser("which", help="print the call for a loss by its name in another library")
    which.add_argument("name", help="such as BCEWithLogitsLoss, log_loss, reg:gamma")
    arguments = parser.parse_args()
    if arguments.command == "info":
        show_config()
    elif arguments.command == "demo":
        run_demo(arguments.task, arguments.output)
    elif arguments.command == "which":
        print_call(arguments.name)
    else:
        parser.print_help()


def print_call(name: str) -> None:
    """Prints the call that makes the loss of another library."""
    call = _peers.call_for(name)
    if call is None:
        sys.exit(f"no known library calls a loss {name!r}; docs/guide/which.md has the names that are known")
    print(f"fastloss.{call}")


def run_demo(task: str, output: Path) -> None:
    """Runs a demo, which needs libraries that fastloss itself does not."""
    try:
        if task == "losses":
            from fastloss.demo import run as run_losses

            run_losses(output)
        elif task == "linear":
            from fastloss.demo_linear import run as run_linear

            run_linear()
        else:
            from fastloss.demo_boosting import run as run_boosting

            run_boosting()
    except ModuleNotFoundError as error:
        extras = DEMOS[task][1]
        sys.exit(
            f"the demo needs {error.name}, which is not installed: "
            f'pip install -e ".[{extras}]" in a checkout of fastloss'
        )
    except OSError as error:
        sys.exit(f"the demo failed: {error}")


if __name__ == "__main__":
    main()
