import io

import pytest
import torch

from minivid import plots


def test_every_figure_names_its_axes_and_its_finding():
    matrix = torch.tensor([[3, 1], [0, 4]])
    drawn = [
        plots.patch_grid(torch.zeros(3, 32, 64), patch_size=8, spatial_merge_size=2),
        plots.patch_order(torch.arange(8).reshape(2, 4), spatial_merge_size=2),
        plots.sampled_times([0.0, 0.5, 1.0], [0.0, 1.0]),
        plots.curves({"loss": ([1, 2], [3.0, 2.0])}, title="falls", ylabel="loss (nat)"),
        plots.confusion(matrix, ["left", "right"], title="7 of 8 right"),
        plots.attention_map(torch.full((3, 5), 0.2), title="even"),
    ]
    for axes in drawn:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()


def test_patch_grid_draws_a_line_at_every_patch_border():
    axes = plots.patch_grid(torch.zeros(3, 32, 64), patch_size=8, spatial_merge_size=2)
    rows, columns, merged_rows, merged_columns = (len(lines.get_segments()) for lines in axes.collections)
    assert (rows, columns, merged_rows, merged_columns) == (5, 9, 3, 5)


def test_patch_order_writes_each_number_where_its_patch_stands():
    numbers = torch.tensor([[0, 1, 4], [2, 3, 5]])
    axes = plots.patch_order(numbers)
    assert {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in axes.texts} == {
        (row, column): int(numbers[row, column]) for row in range(2) for column in range(3)
    }


@pytest.mark.parametrize(
    "low, high",
    [
        (torch.tensor(0, dtype=torch.uint8), torch.tensor(255, dtype=torch.uint8)),
        (torch.tensor(-1.0), torch.tensor(1.0)),
    ],
)
def test_whole_numbers_and_normalised_floats_show_the_same_picture(low, high):
    clip = torch.stack([low.expand(3, 4, 5), high.expand(3, 4, 5)])
    first, second = (axes.images[0].get_array() for axes in plots.frames(clip).axes)
    assert first.max() == 0 and second.min() == 1


def test_confusion_counts_stand_row_by_row():
    axes = plots.confusion(torch.tensor([[3, 1], [0, 4]]), ["a", "b"], title="t")
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "4"]


def test_attention_shares_sum_to_one_over_the_groups():
    weights = torch.zeros(2, 2, 3)
    weights[0, 0, 0], weights[1, 1, 2] = 1.0, 3.0
    figure = plots.attention_on_frames(torch.zeros(4, 3, 8, 12), weights, seconds=[0.0, 0.1, 0.2, 0.3])
    labels = [axes.get_xlabel() for axes in figure.axes if "of the weight" in axes.get_xlabel()]
    assert labels == ["25% of the weight", "75% of the weight"]


def test_a_png_depends_on_the_figure_alone(tmp_path):
    def draw():
        return plots.curves({"loss": ([1, 2], [3.0, 2.0])}, title="t", ylabel="y").figure

    buffer = io.BytesIO()
    plots.save_png(draw(), buffer)
    plots.save_png(draw(), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes() == buffer.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    figure = plots.curves({}, title="t", ylabel="y").figure
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError):
        plots.save_png(figure, tmp_path / "taken.png")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_more_frames_than_columns_go_to_the_next_row():
    figure = plots.frames(torch.zeros(5, 3, 4, 4), columns=3, seconds=[0, 1, 2, 3, 4])
    assert len(figure.axes) == 6
    assert [axes.get_xlabel() for axes in figure.axes[:5]] == ["0.00 s", "1.00 s", "2.00 s", "3.00 s", "4.00 s"]


def test_a_notebook_shows_a_figure_without_a_window_system():
    figure = plots.curves({"loss": ([1, 2], [3.0, 2.0])}, title="t", ylabel="y").figure
    buffer = io.BytesIO()
    plots.save_png(figure, buffer)
    assert figure._repr_png_() == buffer.getvalue() != b""


def test_words_on_frames_draws_a_row_for_each_word_below_its_frames():
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    figure = plots.words_on_frames(torch.zeros(3, 3, 4, 6, dtype=torch.uint8), weights, ["red", "last"], title="t")
    top, bottom = figure.axes[:2]
    assert top.images[0].get_array().shape == (4, 18, 3)
    assert torch.equal(torch.as_tensor(bottom.images[0].get_array()), weights)
    assert [text.get_text() for text in bottom.get_yticklabels()] == ["red", "last"]
    assert (bottom.get_xlabel(), bottom.get_ylabel(), figure.get_suptitle()) == ("frame number", "word", "t")
    assert top.get_xlim() == bottom.get_xlim() == (-0.5, 2.5)


def test_parts_in_rows_are_as_wide_as_they_have_letters():
    axes = plots.parts_in_rows([["l", "o", "w"], ["lo w", "er"]], ["0", "1"], title="t", marked=[None, 1])
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 1), (1, 1), (2, 1), (0, 4), (4, 2)]
    assert [text.get_text() for text in axes.texts] == ["l", "o", "w", "lo\u2423w", "er"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0", "1"]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_xlim()) == ("t", "letter", (0, 6))
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors.count(colors[-1]) == 1
    assert axes.get_ylim() == (1.5, -0.5)


def test_clips_with_words_draws_a_row_for_each_clip_its_frames_side_by_side():
    clips = [torch.zeros(3, 3, 4, 6, dtype=torch.uint8), torch.ones(2, 3, 5, 5)]
    figure = plots.clips_with_words(clips, [["What? red", "a $5 _b_"], []], title="t")
    left, words, lower, silent = figure.axes
    assert left.images[0].get_array().shape == (4, 18, 3) and lower.images[0].get_array().shape == (5, 10, 3)
    assert [text.get_text() for text in words.texts] == ["What? red\na $5 _b_"]
    assert [text.get_text() for text in silent.texts] == [""] and figure.get_suptitle() == "t"
    buffer = io.BytesIO()
    plots.save_png(figure, buffer)  # words are drawn as they are, without mathematics in them


def test_position_cube_draws_every_token_where_it_stands():
    positions = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 1, 2], [3, 3, 3]])
    figure = plots.position_cube(positions, ["words", "picture", "picture", "words"], title="t")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_legend().get_texts()] == ["words (2)", "picture (2)"]
    found = [torch.tensor(list(zip(*points._offsets3d, strict=True))).tolist() for points in axes.collections]
    assert found == [[[0, 0, 0], [3, 3, 3]], [[1, 1, 1], [1, 2, 1]]]  # time, column, row
    assert [len(set(map(tuple, points.get_facecolor()))) for points in axes.collections] == [1, 1]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()) == (
        "time (position)",
        "column (position)",
        "row (position)",
    )
    low, high = axes.get_zlim()
    assert low > high and figure.get_suptitle() == "t"  # rows run downwards
