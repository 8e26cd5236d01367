"""Tables of what other libraries call their losses, and the calls that make the same here."""

from __future__ import annotations

from fastloss import _peers


def names_table() -> str:
    """A section for each library, with a row for each of its names, in Markdown."""
    lines: list[str] = []
    for library, names in _peers.CALLS.items():
        lines += [f"## {library}", "", "| there | here | |", "|---|---|---|"]
        lines += [f"| `{name}` | `{call}` | {remark} |" for name, (call, remark) in names.items()]
        lines.append("")
    return "\n".join(lines)


def scales_table() -> str:
    """The names whose loss here needs a factor, in Markdown; of PyTorch's classes and functions the classes alone."""
    lines = ["| library | there | here |", "|---|---|---|"]
    for library, name, call, _ in _peers.rows():
        if "weight=" in call and "functional." not in name:
            lines.append(f"| {library} | `{name}` | `{call}` |")
    return "\n".join(lines) + "\n"
