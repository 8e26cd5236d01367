"""Tables of the names of losses in other libraries, and of the calls that give the same here."""

from __future__ import annotations

from fastloss import _peers


def names_table() -> str:
    """A section for each library, with a row for each of its names, in Markdown."""
    lines: list[str] = []
    for library, names in _peers.CALLS.items():
        lines += [f"## {library}", "", "| there | here |", "|---|---|"]
        for name, (call, remark) in names.items():
            lines.append(f"| `{name}` | `{call}`{f', {remark}' if remark else ''} |")
        lines.append("")
    return "\n".join(lines)


def scales_table() -> str:
    """The names whose call has a factor, in Markdown; of PyTorch's classes and functions, only the classes."""
    lines = ["| library | there | here |", "|---|---|---|"]
    for library, name, call, _ in _peers.rows():
        if "weight=" in call and "functional." not in name:
            lines.append(f"| {library} | `{name}` | `{call}` |")
    return "\n".join(lines) + "\n"
