import time

from minivid import plots, report


def test_a_page_holds_its_title_as_text_and_its_body_as_it_is(tmp_path):
    report.write_page(tmp_path / "page.html", "a < b", "<p>5 > 3 and $5</p>")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>a &lt; b</title>" in text and "<p>5 > 3 and $5</p>\n</html>" in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_picture_stands_in_the_page_and_in_a_file(tmp_path):
    figure, _ = plots.new_figure(width=1.0, height=1.0)
    tag = report.picture(tmp_path / "dot.png", figure, 'a "dot"')
    assert (tmp_path / "dot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert tag.startswith('<img src="data:image/png;base64,iVBOR') and tag.endswith('alt="a &quot;dot&quot;">')


def test_the_cells_of_a_table_are_text():
    assert report.rows([["a<b", 3], []]) == "<tr><td>a&lt;b</td><td>3</td></tr>\n<tr></tr>"


def test_a_clock_sums_the_seconds_of_each_part(monkeypatch):
    now = iter([10.0, 11.5, 12.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = report.Clock()
    for name in ("draw", "load", "draw"):
        clock.lap(name)
    assert clock.laps == {"draw": 4.5, "load": 0.5}


def test_whoever_stops_a_demo_is_told_where_it_was_and_how_it_goes_on():
    assert report.stopped(7, 20, 5, saved=True) == (
        "\nstopped after step 7 of 20. Run the same command again: the training goes on from its last save, at most 5 "
        "steps back."
    )
    assert report.stopped(0, 20, 5, saved=False) == (
        "\nstopped before the training. Run the same command again: it begins anew."
    )
