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
