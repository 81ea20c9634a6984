"""Which names can be checked, found without running a test file."""

import sys

import pytest

from minivid.classroom.catalogue import PACKAGE, defined, find, subjects


def test_a_module_stands_for_all_its_names_with_laws():
    subject, names = find("attention")
    assert subject.place == "minivid.layers.attention" and subject.laws.name == "test_attention.py"
    assert "attend" in names and names == subject.names


def test_a_public_name_stands_for_itself():
    subject, names = find("attend")
    assert (subject.module, names) == ("attention", ("attend",))


def test_names_come_in_the_order_of_the_module():
    for subject in subjects().values():
        order = defined(PACKAGE / subject.laws.parent.name / f"{subject.module}.py")
        assert list(subject.names) == [name for name in order if name in subject.names]


def test_an_unknown_name_is_answered_with_what_there_is():
    with pytest.raises(
        LookupError, match=r"atend: there are no laws for it; did you mean attend\? .*attention: .*attend"
    ):
        find("atend")


def test_no_test_file_is_run_to_find_a_name():
    before = set(sys.modules)
    subjects.cache_clear()
    find("attend")
    assert {name for name in set(sys.modules) - before if "test" in name or "laws" in name} == set()
