"""What an answer says reaches the terminal as plain, short lines."""

from hypothesis import given
from hypothesis import strategies as st

from minivid.classroom.prose import WIDTH, clean, last_lines, terminal_width, tidy


@given(st.text(st.characters(codec="utf-8")), st.integers(5, 50))
def test_clean_words_are_one_short_line_that_moves_no_cursor(text, most):
    line = clean(text, most)
    assert line.isprintable() and len(line) <= most


def test_escape_codes_lose_their_power():
    assert clean("\x1b[2Jall laws\r\nhold\x07") == " [2Jall laws hold "


def test_the_last_lines_stand_behind_a_bar():
    assert last_lines("one\ntwo\n\x1b[1mthree\n", 2) == ["  | two", "  |  [1mthree"]


def test_prose_is_folded_and_rows_of_numbers_are_not():
    numbers = "    query = [" + "1 " * 100 + "]"
    folded = tidy("word " * 60 + "\n" + numbers).splitlines()
    assert folded[-1] == numbers and max(map(len, folded[:-1])) <= WIDTH and len(folded) == 4


def test_a_terminal_is_neither_too_narrow_nor_too_wide(monkeypatch):
    for columns, width in ((20, 60), (90, 90), (500, WIDTH)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert terminal_width() == width
