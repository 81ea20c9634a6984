from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from minivid.data.conversation_files import Conversation
from minivid.data.held_out import hold_out, media_of, together


def about(number, *names):
    content = [{"type": "video", "video": f"/clips/{name}.mp4"} for name in names]
    return Conversation([{"role": "user", "content": content}], f"item {number}")


names = st.lists(st.sets(st.sampled_from("abcdefg"), max_size=2), min_size=2, max_size=12)


@given(names, st.floats(0.05, 0.95), seeds)
def test_no_clip_that_is_held_out_is_learnt_from(sets, share, seed):
    conversations = [about(i, *sorted(members)) for i, members in enumerate(sets)]
    if len(together(sets)) < 2:
        return
    learnt, held = hold_out(conversations, share, seed=seed)
    places = [each.place for each in conversations]
    assert sorted([*learnt, *held], key=lambda each: places.index(each.place)) == conversations
    assert learnt and held and all(sorted(side, key=conversations.index) == side for side in (learnt, held))
    seen = [set().union(*map(media_of, side)) for side in (learnt, held)]
    assert not seen[0] & seen[1]


@given(st.integers(2, 30), st.floats(0.01, 0.99), seeds)
def test_as_many_are_held_out_as_the_share_says(count, share, seed):
    conversations = [about(i, str(i)) for i in range(count)]
    learnt, held = hold_out(conversations, share, seed=seed)
    assert len(held) == min(count - 1, -int(-share * count // 1))
    assert hold_out(conversations, share, seed=seed) == (learnt, held)


def test_the_seed_says_which():
    conversations = [about(i, str(i)) for i in range(20)]
    found = {tuple(each.place for each in hold_out(conversations, 0.2, seed=seed)[1]) for seed in range(5)}
    assert len(found) == 5
    assert hold_out(conversations, 0.2) == hold_out(conversations, 0.2, seed=0)


@given(names)
def test_sets_stand_together_exactly_if_a_chain_of_shared_members_leads_from_one_to_the_other(sets):
    linked = [[bool(one & other) or one is other for other in sets] for one in sets]
    for middle in range(len(sets)):
        for i, j in combinations(range(len(sets)), 2):
            if linked[i][middle] and linked[middle][j]:
                linked[i][j] = linked[j][i] = True
    groups = together(sets)
    assert sorted(i for group in groups for i in group) == list(range(len(sets)))
    assert groups == sorted(groups) and all(group == sorted(group) for group in groups)
    for group in groups:
        for i in group:
            assert [j for j in range(len(sets)) if linked[i][j]] == group


def test_a_file_has_one_name(tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "a.mp4"
    path.touch()
    two = [
        Conversation([{"role": "user", "content": [{"type": "video", "video": str(name)}]}], "")
        for name in (path, tmp_path / "folder" / ".." / "a.mp4")
    ]
    assert media_of(two[0]) == media_of(two[1]) == {str(path.resolve())}


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="^conversations: 3, about 1 different clips, so none can be held out; give"):
        hold_out([about(i, "a") for i in range(3)], 0.5)
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=f"^share={share} of held-out conversations is not between 0 and 1$"):
            hold_out([about(0, "a"), about(1, "b")], share)
