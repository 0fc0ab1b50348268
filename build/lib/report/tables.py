"""Markdown tables."""


def table(head: list[str], rows: list[list]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells]


def folded(title: str, lines: list[str]) -> list[str]:
    """Lines that are shown when their title is clicked."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]
