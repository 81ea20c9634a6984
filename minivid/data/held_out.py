"""Conversations that are held back to be measured on: no clip that is learnt from is among them."""

import math
import os
from collections.abc import Sequence

import numpy as np

from minivid.data.conversation_files import Conversation


def hold_out(
    conversations: Sequence[Conversation], share: float, *, seed: int = 0
) -> tuple[list[Conversation], list[Conversation]]:
    """Put conversations aside, all about a picture or clip together.

    A model that has learnt one answer about a clip has seen the clip: what it answers to another question about it says
    nothing about clips that it never saw. Conversations that share a file, directly or by way of others, stay together.

    Args:
        conversations: in any order.
        share: of them that is put aside, at least; above 0, below 1.
        seed: which ones.

    Returns:
        Those to learn from and those put aside, each in the order they came in, none empty.

    Raises:
        ValueError: if the share is out of range, or nothing would be left to learn from.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} of held-out conversations is not between 0 and 1")
    groups = together([media_of(conversation) for conversation in conversations])
    if len(groups) < 2:
        raise ValueError(
            f"conversations: {len(conversations)}, about {len(groups)} different clips, so none can be held out; "
            "give more, or a file of others to be measured on"
        )
    wanted, aside = math.ceil(share * len(conversations)), []
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    for group in order[:-1]:  # the last one stays, whatever the share
        if len(aside) >= wanted:
            break
        aside += groups[group]
    held = set(aside)
    learnt = [conversation for i, conversation in enumerate(conversations) if i not in held]
    return learnt, [conversations[i] for i in sorted(held)]


def together(sets: Sequence[set]) -> list[list[int]]:
    """Number the sets from 0 and put those numbers together whose sets share a member, directly or by way of others.

    Args:
        sets: an empty one stands alone.

    Returns:
        Lists of rising numbers, in the order of their first.
    """
    # Union-find: each group is a tree of numbers, and its lowest number is the root.
    first_of: dict[object, int] = {}  # member -> the first set that has it
    parent = list(range(len(sets)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]  # the way is halved for whoever comes next
        return number

    for number, members in enumerate(sets):
        for member in members:
            one, other = sorted((root(number), root(first_of.setdefault(member, number))))
            parent[other] = one
    groups: dict[int, list[int]] = {}
    for number in range(len(sets)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def media_of(conversation: Conversation) -> set[str]:
    """The files that a conversation shows.

    Args:
        conversation: from `read_conversations`.
    """
    return {os.path.realpath(path) for path in conversation.media}
