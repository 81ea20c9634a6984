"""Classic wrong answers about annotated conversations, each with three hints of increasing directness."""

import json
import os
import re
from collections.abc import Iterator

from minivid.classroom.museum import Mistake

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def reads(
    *,
    join=os.path.join,
    split=lambda value: re.split("(<image>|<video>)", value),
    clean=str.strip,
    empty=False,
    answer_text=lambda text: text,
    serialise=lambda value: json.dumps(value, ensure_ascii=False),
    role=SPEAKERS.get,
    anew=False,
    all_first=False,
    tags_in_answers=False,
    one_list=False,
    pop=0,
    keep_tags=False,
    as_text=False,
):
    """A wrong answer with the signature of conversation_messages."""

    def answer(item, *, folder="", speakers=SPEAKERS):
        def files():
            found = {}
            for kind in ("image", "video"):
                paths = item.get(kind) or []
                found[kind] = [join(folder, path) for path in ([paths] if isinstance(paths, str) else paths)]
            return found

        left, messages = files(), []
        if one_list:
            both = left["image"] + left["video"]
            left = {"image": both, "video": both}
        for turn in item["conversations"]:
            if anew:
                left = files()
            speaker, value = role(turn["from"]), turn["value"]
            value = value if isinstance(value, str) else serialise(value)
            if speaker != "user" and not tags_in_answers:
                text = answer_text(value)
                messages.append({"role": speaker, "content": text if as_text else [{"type": "text", "text": text}]})
                continue
            content = []
            for piece in split(value):
                if piece in ("<image>", "<video>"):
                    kind = piece[1:-1]
                    content.append({"type": kind, kind: left[kind].pop(pop) if left[kind] else None})
                    if keep_tags:
                        content.append({"type": "text", "text": piece})
                elif clean(piece) or empty:
                    content.append({"type": "text", "text": clean(piece)})
            if all_first:
                content.sort(key=lambda part: part["type"] == "text")
            messages.append({"role": speaker, "content": content})
        return messages

    return answer


folder_forgotten = reads(join=lambda folder, path: path)
folder_before_absolute_paths = reads(join=lambda folder, path: f"{folder}/{path}")
texts_not_stripped = reads(clean=lambda text: text)
empty_texts_kept = reads(empty=True)
answers_stripped = reads(answer_text=str.strip)
escaped = reads(serialise=json.dumps)
python_words = reads(serialise=str)
objects_kept = reads(serialise=lambda value: value)
everyone_else_is_the_assistant = reads(role=lambda name: "user" if name == "human" else "assistant")
roles_swapped = reads(role=lambda name: {"human": "assistant", "gpt": "user"}.get(name, name))
names_kept = reads(role=lambda name: name)
files_anew_in_each_turn = reads(anew=True)
files_from_the_end = reads(pop=-1)
pictures_first = reads(all_first=True)
tags_of_answers_taken = reads(tags_in_answers=True)
one_list_for_both_kinds = reads(one_list=True)
tags_left_in_the_text = reads(keep_tags=True)
answers_as_bare_text = reads(as_text=True)
only_left_stripped = reads(clean=str.lstrip)


def item_emptied(item, *, folder="", speakers=SPEAKERS):
    messages = reads()(item, folder=folder)
    for kind in ("image", "video"):
        if isinstance(item.get(kind), list):
            item[kind].clear()
    return messages


def only_the_first_file(item, *, folder="", speakers=SPEAKERS):
    first = {
        kind: item[kind][:1] if isinstance(item[kind], list) else item[kind]
        for kind in ("image", "video")
        if kind in item
    }
    return reads()({**item, **first}, folder=folder)


FOUND = [
    (
        folder_forgotten,
        ("Look at the paths.", "The folder is not used.", "os.path.join(folder, path)"),
    ),
    (
        folder_before_absolute_paths,
        (
            "Try an absolute path.",
            "The folder is put before an absolute path too.",
            "os.path.join(folder, path) leaves an absolute path alone",
        ),
    ),
    (
        texts_not_stripped,
        (
            'Try "<video>\\nWhat is it?".',
            "The new line behind the tag stays; texts of questions lose the white space around them.",
            "text.strip()",
        ),
    ),
    (
        only_left_stripped,
        ('Try "look <image> here".', "White space is taken from the beginning only.", "text.strip()"),
    ),
    (
        empty_texts_kept,
        ('Try "<image>\\n<image>".', "Texts without a word become parts of their own.", "if text.strip(): ..."),
    ),
    (
        answers_stripped,
        ('Try the answer " spaced ".', "White space is taken from answers; they stay as they are.", "turn['value']"),
    ),
    (
        escaped,
        (
            "Try an object with a word that is not English.",
            "The model would learn to write \\u8fd9 for a sign.",
            "json.dumps(value, ensure_ascii=False)",
        ),
    ),
    (
        python_words,
        (
            "Try an object as the answer.",
            "str() writes it as Python does, which is no JSON.",
            "json.dumps(value, ensure_ascii=False)",
        ),
    ),
    (
        objects_kept,
        (
            "Try an object as the answer.",
            "The text of the answer is an object; no tokenizer takes it.",
            "json.dumps(value, ensure_ascii=False)",
        ),
    ),
    (
        everyone_else_is_the_assistant,
        (
            'Try "from": "system".',
            "Everyone but the human is taken for the assistant, as the published code does: the model learns to write "
            "its own system message.",
            '{"human": "user", "gpt": "assistant", "system": "system"}',
        ),
    ),
    (
        roles_swapped,
        ("Who asks?", "Human and model are swapped.", '{"human": "user", "gpt": "assistant"}'),
    ),
    (
        names_kept,
        (
            "Which roles are there?",
            "human and gpt are no roles of a chat template.",
            '{"human": "user", "gpt": "assistant"}',
        ),
    ),
    (
        files_anew_in_each_turn,
        (
            "Try two questions with a picture each.",
            "Each question begins with the first file again.",
            "Go through the files once, over all turns.",
        ),
    ),
    (
        files_from_the_end,
        ("Try two pictures.", "The last file is taken first.", "next(iter_of_files), or files.pop(0)"),
    ),
    (
        pictures_first,
        ('Try "look <image> here".', "Pictures are moved in front of the texts.", "Parts stay in their order."),
    ),
    (
        tags_of_answers_taken,
        (
            'Try the answer "<video>".',
            "A tag in an answer takes a file; there it is plain text.",
            "Only questions are split.",
        ),
    ),
    (
        one_list_for_both_kinds,
        (
            "Try a clip, then a picture.",
            "Pictures and clips are taken from one list.",
            "One list for each kind.",
        ),
    ),
    (
        tags_left_in_the_text,
        (
            "Look for a tag in the texts.",
            "The tag stays as text next to its file.",
            "A tag becomes a file, and nothing else.",
        ),
    ),
    (
        answers_as_bare_text,
        (
            "What is the content of an answer?",
            "It is a bare text; every content is a list of parts.",
            '[{"type": "text", "text": answer}]',
        ),
    ),
    (
        item_emptied,
        (
            "Look at the annotation after the call.",
            "The files are taken out of the caller's list: the second round of training finds none.",
            "left = iter(files)",
        ),
    ),
    (
        only_the_first_file,
        ("Try two pictures.", "Only the first file of a list is used.", "Every file of the list, in order."),
    ),
]

MISTAKES = {"conversation_messages": [Mistake(answer, hints) for answer, hints in FOUND]}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Annotations on which no two of the mistakes above give the same."""
    first = {"from": "human", "value": "look <image> here <video>\n <image>"}
    answer = {"from": "gpt", "value": " <video> "}
    told = {"from": "gpt", "value": {"tags": ["这"], "yes": True}}
    item = {"image": ["a.png", "b.png", "/c.png"], "video": ["d.mp4"]}
    yield (
        ({**item, "conversations": [first, answer, {"from": "human", "value": "<image>?"}, told]},),
        {"folder": "/clips"},
    )
    yield ({"conversations": [{"from": "system", "value": "s "}, {"from": "human", "value": " q "}]},), {}
