"""Text for a terminal: folded to its width, and cleaned where it comes from an answer."""

import shutil
import textwrap

WIDTH = 118


def terminal_width() -> int:
    """Columns of the terminal, between 60 and WIDTH."""
    return min(WIDTH, max(60, shutil.get_terminal_size((WIDTH, 24)).columns))


def tidy(text: str, width: int = WIDTH) -> str:
    """Lines of prose folded to a width; rows of numbers left as they are."""
    folded = []
    for line in text.splitlines():
        indent = "  " if line[:1] != " " else " " * (len(line) - len(line.lstrip()) + 8)
        numbers = " = [" in line or line.lstrip().startswith("[")
        folded += [line] if numbers or len(line) <= width else textwrap.wrap(line, width, subsequent_indent=indent)
    return "\n".join(folded)


def clean(text: object, most: int = 200) -> str:
    """One line of printable characters: an answer's words must not move the cursor or paint over the verdict."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
    return line if len(line) <= most else line[: most - 3] + "..."


def last_lines(text: str, count: int) -> list[str]:
    """The last lines of what an answer printed, each behind a bar."""
    return [f"  | {clean(line, WIDTH - 20)}" for line in text.strip().splitlines()[-count:]]
