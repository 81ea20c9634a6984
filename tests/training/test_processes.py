"""What processes that train together know of each other, in two of them and alone."""

import pytest
import torch
from strategies import normal
from two_processes import two_processes

from minivid.training.processes import (
    Share,
    check_alike,
    device,
    done_in_turns,
    is_first,
    joined,
    rows_of_all,
    share,
    told_by_all,
    total,
    wait_for_all,
)

LENGTHS = (2, 3)  # rows of each process
CPU = torch.device("cpu")


def weighed(rows):
    """A number in which every pair of rows plays another part."""
    return (rows @ rows.T * torch.arange(len(rows) ** 2).view(len(rows), -1)).sum()


def everything(folder):
    mine = share().process
    found = {
        "share": share(),
        "first": is_first(),
        "total": total(1, 0.5, device=CPU),
        "told": told_by_all(f"I am {mine}"),
    }
    try:
        check_alike("steps done", mine)
    except ValueError as error:
        found["alike"] = str(error)
    done = []
    for items in (range(5), range(1), ()):
        found[f"turns of {len(items)}"] = done_in_turns(items, lambda item: done.append(item) or (mine, item))
    found["done"] = done
    rows = normal(mine, LENGTHS[mine], 4).requires_grad_()
    everyone, place = rows_of_all(rows)
    weighed(everyone).backward()
    found["rows"], found["place"], found["gradient"] = everyone.tolist(), place, rows.grad.tolist()
    return found


def fail(folder):
    if not is_first():
        raise ValueError("my own reason")
    wait_for_all()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return two_processes(everything, tmp_path_factory.mktemp("processes"))


def test_each_knows_itself_and_all_know_the_same(both):
    assert [found["share"] for found in both] == [(0, 2), (1, 2)]
    assert [found["first"] for found in both] == [True, False]
    assert [found["total"] for found in both] == [[2.0, 1.0]] * 2
    assert [found["told"] for found in both] == [["I am 0", "I am 1"]] * 2
    assert both[0]["alike"] == "steps done: [0, 1] in the 2 processes; all must see the same folder"


def test_items_are_dealt_out_and_all_work_equally_often(both):
    for found in both:
        assert found["turns of 5"] == [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)]
        assert found["turns of 1"] == [(0, 0)] and found["turns of 0"] == []
    # Who has none left does the first again.
    assert [found["done"] for found in both] == [[0, 2, 4, 0], [1, 3, 0, 0]]


def test_rows_of_all_stand_in_order_and_gradients_reach_their_own(both):
    rows = torch.cat([normal(process, n, 4) for process, n in enumerate(LENGTHS)]).requires_grad_()
    (gradient,) = torch.autograd.grad(weighed(rows), rows)
    for found, place, n in zip(both, (0, LENGTHS[0]), LENGTHS, strict=True):
        assert found["rows"] == rows.tolist() and found["place"] == place
        # Each process asked for the same number: a row's gradient is the sum over both.
        torch.testing.assert_close(torch.tensor(found["gradient"]), 2 * gradient[place : place + n])


def test_only_the_first_to_fail_says_why(tmp_path):
    silent, failed = two_processes(fail, tmp_path)
    assert isinstance(failed, ValueError) and str(failed) == "my own reason"
    assert isinstance(silent, SystemExit) and silent.code == 1


def test_alone_all_is_one_s_own():
    with joined() as mine:
        assert mine == share() == Share(0, 1) and is_first()
    assert total(3, 0.25, device=CPU) == [3, 0.25] and told_by_all("I") == ["I"]
    assert done_in_turns("abc", str.upper) == ["A", "B", "C"]
    rows = normal(0, 3, 2)
    assert rows_of_all(rows) == (rows, 0)
    check_alike("anything", 7)
    wait_for_all()
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")
