"""A report as one page of HTML with its pictures inside: it needs no other file and no network."""

import base64
import html
import os
import time
from collections.abc import Iterable
from pathlib import Path
from string import Template

from minivid import plots
from minivid.whole_files import replace_file

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
  body { font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 60rem; margin: 2rem auto;
    padding: 0 1rem; }
  h1, h2 { line-height: 1.2; }
  h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1.2rem; }
  .lead { font-size: 1.15rem; }
  img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
  table { border-collapse: collapse; margin: 1rem 0; }
  th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #ddd; }
  pre { overflow-x: auto; background: #f5f5f5; padding: .8rem; }
</style>

$body
</html>
""")


def write_page(path: str | os.PathLike, title: str, body: str) -> None:
    """Write a page, which appears under its name only when it is complete.

    Args:
        path: the file to make or to replace.
        title: as text.
        body: as HTML.
    """
    page = _PAGE.substitute(title=html.escape(title), body=body)
    replace_file(Path(path), lambda new: Path(new).write_text(page, encoding="utf-8"))


def picture(path: str | os.PathLike, figure: plots.Figure, text: str) -> str:
    """Save a figure, and give the HTML that holds it.

    Args:
        path: the PNG file to make.
        figure: is closed.
        text: what is to be seen, for who cannot see it.
    """
    plots.save_png(figure, path)
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(text)}">'


def rows(cells: Iterable[Iterable[object]]) -> str:
    """Lines of an HTML table.

    Args:
        cells: what stands in each line, as text.
    """
    return "\n".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in cells)


class Clock:
    """Seconds that each part of a work took, summed by name, in `laps`."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Put what passed since the last lap, or the beginning, under a name."""
        now = time.perf_counter()
        self.laps[name] = round(self.laps.get(name, 0.0) + now - self._last, 2)
        self._last = now


def stopped(done: int, steps: int, save_every: int, saved: bool) -> str:
    """What is said when someone stops a demo: where it was, and how it goes on.

    Args:
        done: steps of the training.
        steps: of the whole training.
        save_every: steps from one save to the next.
        saved: whether there is a save to go on from.
    """
    how = "it begins anew"
    if saved:
        how = f"the training goes on from its last save, at most {save_every} steps back"
    where = f"after step {done} of {steps}" if done else "before the training"
    return f"\nstopped {where}. Run the same command again: {how}."
