"""Classic wrong answers about prompts, each with three hints of increasing directness."""

import re
from collections.abc import Iterator

from minivid.classroom.museum import Mistake

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
START, END = "<|vision_start|>", "<|vision_end|>"


def kind_of(part):
    if part.get("type") == "image" or "image" in part or "image_url" in part:
        return "image"
    return "video" if part.get("type") == "video" or "video" in part else "text"


# ---- chat_text


def writes(
    *,
    turn="<|im_start|>{role}\n{content}<|im_end|>\n",
    part="{title}" + START + "{pad}" + END,
    between="",
    first="",
    prompt="<|im_start|>assistant\n",
    clean=lambda text: text,
    from_zero=False,
    anew=False,
    one_count=False,
    kind_of=kind_of,
    pads=(("image", IMAGE), ("video", VIDEO)),
    order=list,
):
    """A wrong answer with the signature of chat_text, from what it writes."""

    def answer(messages, *, add_generation_prompt=False, add_vision_id=False):
        counts, written = {"image": 0, "video": 0}, first
        for message in messages:
            if anew:
                counts = {"image": 0, "video": 0}
            content = message["content"]
            pieces = []
            for piece in order([{"text": content}] if isinstance(content, str) else content):
                kind = kind_of(piece)
                if kind == "text":
                    pieces.append(clean(piece.get("text", "")))
                    continue
                name = {"image": "Picture", "video": "Video"}[kind]
                counted = "image" if one_count else kind
                title = f"{name} {counts[counted] + (not from_zero)}: " if add_vision_id else ""
                counts[counted] += 1
                pieces.append(part.format(title=title, pad=dict(pads)[kind]))
            written += turn.format(role=message["role"], content=between.join(pieces))
        return written + (prompt if add_generation_prompt else "")

    return answer


end_of_turn_forgotten = writes(turn="<|im_start|>{role}\n{content}\n")
newline_after_the_end_forgotten = writes(turn="<|im_start|>{role}\n{content}<|im_end|>")
newline_after_the_role_forgotten = writes(turn="<|im_start|>{role}{content}<|im_end|>\n")
parts_joined_by_newlines = writes(between="\n")
parts_joined_by_blanks = writes(between=" ")
default_system_message = writes(first="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
generation_prompt_without_newline = writes(prompt="<|im_start|>assistant")
generation_prompt_closed = writes(prompt="<|im_start|>assistant\n<|im_end|>\n")
texts_stripped = writes(clean=str.strip)
numbered_from_zero = writes(from_zero=True)
numbered_anew_in_each_turn = writes(anew=True)
pictures_and_clips_numbered_together = writes(one_count=True)
pads_without_start_and_end = writes(part="{title}{pad}")
clips_written_as_pictures = writes(pads=(("image", IMAGE), ("video", IMAGE)))
title_inside_the_start = writes(part=START + "{title}{pad}" + END)
only_the_type_counts = writes(kind_of=lambda part: part.get("type", "text"))
pictures_before_texts = writes(order=lambda parts: sorted(parts, key=lambda part: kind_of(part) == "text"))


def prompt_added_to_the_messages(messages, *, add_generation_prompt=False, add_vision_id=False):
    if add_generation_prompt:
        messages.append({"role": "assistant", "content": ""})
        return writes()(messages, add_vision_id=add_vision_id).removesuffix("<|im_end|>\n")
    return writes()(messages, add_vision_id=add_vision_id)


CHAT = [
    (
        end_of_turn_forgotten,
        (
            "How does a model know that a turn is over?",
            "The closing token is missing: in training the model never learns to stop.",
            "<|im_start|>{role}\\n{content}<|im_end|>\\n",
        ),
    ),
    (
        newline_after_the_end_forgotten,
        (
            "Look at what stands between two turns.",
            "The new line behind <|im_end|> is missing.",
            "<|im_start|>{role}\\n{content}<|im_end|>\\n",
        ),
    ),
    (
        newline_after_the_role_forgotten,
        (
            "Look at what stands between the role and the content.",
            "The new line behind the role is missing: role and first word run together.",
            "<|im_start|>{role}\\n{content}<|im_end|>\\n",
        ),
    ),
    (
        parts_joined_by_newlines,
        (
            "Give a message of a picture and a text.",
            "There is a new line between the parts; nothing belongs there.",
            '"".join(pieces)',
        ),
    ),
    (
        parts_joined_by_blanks,
        ("Give a message of a picture and a text.", "There is a blank between the parts.", '"".join(pieces)'),
    ),
    (
        default_system_message,
        (
            "Give a conversation without a system message.",
            "A system message is made up; earlier models had one, this one has none.",
            "Begin with the first message, whatever its role.",
        ),
    ),
    (
        generation_prompt_without_newline,
        (
            "What is the last character with add_generation_prompt=True?",
            "The new line behind the role is missing, so the model has to write it first.",
            "<|im_start|>assistant\\n",
        ),
    ),
    (
        generation_prompt_closed,
        (
            "What is the last token with add_generation_prompt=True?",
            "The answer is closed before it began.",
            "<|im_start|>assistant\\n, and nothing behind it",
        ),
    ),
    (
        texts_stripped,
        (
            "Give a text that begins with a blank.",
            "White space is taken from the texts; they are to stay as they are.",
            'part["text"], without .strip()',
        ),
    ),
    (
        numbered_from_zero,
        ("What is the first picture called?", "The numbers begin with 0.", "Count first, then write: Picture 1."),
    ),
    (
        numbered_anew_in_each_turn,
        (
            "Give two messages with a picture each, and add_vision_id=True.",
            "The numbers begin anew in each message.",
            "Set the counters to 0 once, before the first message.",
        ),
    ),
    (
        pictures_and_clips_numbered_together,
        (
            "Give a picture and a clip, and add_vision_id=True.",
            "Pictures and clips share one counter.",
            "Picture 1, Video 1: a counter for each kind.",
        ),
    ),
    (
        pads_without_start_and_end,
        (
            "What stands around a placeholder?",
            "<|vision_start|> and <|vision_end|> are missing.",
            "<|vision_start|><|image_pad|><|vision_end|>",
        ),
    ),
    (
        clips_written_as_pictures,
        (
            "Compare the placeholder of a picture with that of a clip.",
            "A clip gets the placeholder of a picture; clips have one of their own.",
            "<|vision_start|><|video_pad|><|vision_end|>",
        ),
    ),
    (
        title_inside_the_start,
        (
            "Where does Picture 1: stand?",
            "The title stands between <|vision_start|> and the placeholder.",
            "Picture 1: <|vision_start|><|image_pad|><|vision_end|>",
        ),
    ),
    (
        only_the_type_counts,
        (
            'Give a part {"video": "a.mp4"} without a type.',
            'A part is a clip also where it has no "type", but a key "video".',
            'part.get("type") == "video" or "video" in part',
        ),
    ),
    (
        pictures_before_texts,
        (
            "Give a text, then a picture.",
            "Pictures are moved in front of the texts; parts stay in their order.",
            'for part in message["content"]: ...',
        ),
    ),
    (
        prompt_added_to_the_messages,
        (
            "Look at the messages after the call.",
            "The beginning of the answer is appended to the caller's list, so the next call has it twice.",
            "Add the generation prompt to the text, not to the messages.",
        ),
    ),
]

# ---- timestamps


def at(first, last, *, rate=lambda fps: 24.0 if fps is None else fps, merge=None, base=0):
    """A wrong answer with the signature of timestamps, from the frames of a group that it looks at."""

    def answer(frames_indices, fps, *, temporal_patch_size=2):
        size = merge or temporal_patch_size
        frames = [index - base * frames_indices[0] for index in frames_indices]
        frames += frames[-1:] * (-len(frames) % size)
        groups = [frames[start : start + size] for start in range(0, len(frames), size)]
        return [(first(group) + last(group)) / 2 / rate(fps) for group in groups]

    return answer


def beginning(group):
    return group[0]


def end(group):
    return group[-1]


def mean(group):
    return sum(group) / len(group)


by_merge_size = at(beginning, end, merge=2)
first_frame_only = at(beginning, beginning)
last_frame_only = at(end, end)
mean_of_all_frames = at(mean, mean)
unknown_rate_is_30 = at(beginning, end, rate=lambda fps: fps or 30.0)
rate_always_24 = at(beginning, end, rate=lambda fps: 24.0)
counted_from_the_first_chosen = at(beginning, end, base=1)
until_the_frame_after = at(beginning, lambda group: group[-1] + 1)


def places_instead_of_numbers(frames_indices, fps, *, temporal_patch_size=2):
    return at(beginning, end)(list(range(len(frames_indices))), fps, temporal_patch_size=temporal_patch_size)


def last_group_not_filled(frames_indices, fps, *, temporal_patch_size=2):
    seconds, size = [index / (fps or 24.0) for index in frames_indices], temporal_patch_size
    return [(seconds[first] + seconds[first + size - 1]) / 2 for first in range(0, len(seconds), size)]


def rest_dropped(frames_indices, fps, *, temporal_patch_size=2):
    whole = len(frames_indices) - len(frames_indices) % temporal_patch_size
    return at(beginning, end)(frames_indices[:whole], fps, temporal_patch_size=temporal_patch_size)


def one_group_too_many(frames_indices, fps, *, temporal_patch_size=2):
    size = temporal_patch_size
    frames = list(frames_indices) + [frames_indices[-1]] * (size - len(frames_indices) % size)
    return at(beginning, end)(frames, fps, temporal_patch_size=size)


def rounded(frames_indices, fps, *, temporal_patch_size=2):
    return [
        round(second, 1) for second in at(beginning, end)(frames_indices, fps, temporal_patch_size=temporal_patch_size)
    ]


def list_filled_in_place(frames_indices, fps, *, temporal_patch_size=2):
    frames_indices += frames_indices[-1:] * (-len(frames_indices) % temporal_patch_size)
    return at(beginning, end)(frames_indices, fps, temporal_patch_size=temporal_patch_size)


FORMULA = "(t[g * tau] + t[g * tau + tau - 1]) / 2, where tau = temporal_patch_size and t = index / fps"

TIMESTAMPS = [
    (
        by_merge_size,
        (
            "Try temporal_patch_size=3.",
            "Groups of 2 are made whatever temporal_patch_size is, as in transformers 4, which groups by merge_size.",
            FORMULA,
        ),
    ),
    (
        first_frame_only,
        ("Frames 0 and 31 at 60 per second: halfway is 0.26.", "The first frame of a group alone counts.", FORMULA),
    ),
    (
        last_frame_only,
        ("Frames 0 and 31 at 60 per second: halfway is 0.26.", "The last frame of a group alone counts.", FORMULA),
    ),
    (
        mean_of_all_frames,
        (
            "Try three frames that are not evenly spaced, and temporal_patch_size=3.",
            "The mean of all frames is taken; only the first and the last of a group count.",
            FORMULA,
        ),
    ),
    (
        unknown_rate_is_30,
        ("Try fps=None.", "An unknown rate is taken for 30.", "24 frames per second where fps is None"),
    ),
    (rate_always_24, ("Try another fps.", "fps is not used.", "t = index / fps")),
    (
        last_group_not_filled,
        (
            "Try an odd number of frames.",
            "The last group is not filled up, so its last frame is looked for behind the end.",
            "frames + frames[-1:] * (-len(frames) % tau)",
        ),
    ),
    (
        counted_from_the_first_chosen,
        (
            "Try frames that do not begin with 0.",
            "Seconds are counted from the first chosen frame, not from the beginning of the file.",
            FORMULA,
        ),
    ),
    (
        until_the_frame_after,
        (
            "Frames 0 and 31 at 60 per second: halfway is 0.258.",
            "The group ends when its last frame is shown, not when the frame after it is.",
            FORMULA,
        ),
    ),
    (
        places_instead_of_numbers,
        (
            "Frames 0 and 31 at 60 per second: halfway is 0.26.",
            "Chosen frames are taken to stand next to each other in the file.",
            "t = frames_indices[i] / fps, not i / fps",
        ),
    ),
    (
        rest_dropped,
        (
            "Try an odd number of frames: how many seconds come?",
            "Frames that do not fill a group are dropped.",
            "frames + frames[-1:] * (-len(frames) % tau)",
        ),
    ),
    (
        one_group_too_many,
        (
            "Try an even number of frames: how many seconds come?",
            "Where nothing is missing, a whole group is filled in: tau - n % tau is tau there.",
            "-len(frames) % tau",
        ),
    ),
    (
        rounded,
        (
            "Compare the seconds with 31 / 60 / 2.",
            "The seconds are rounded; rounding is for the text, f'{second:.1f}'.",
            FORMULA,
        ),
    ),
    (
        list_filled_in_place,
        (
            "Look at the list after the call.",
            "+= changes the caller's list: the next call sees one frame more.",
            "frames = list(frames_indices), and change that",
        ),
    ),
]

# ---- expand


def expands(
    *,
    merged=lambda cells, merge: cells // merge**2,
    label="<{:.1f} seconds>",
    around=True,
    whole=True,
    one_group=False,
    image_like_video=False,
    always_nested=False,
    first_second=False,
    label_inside=False,
    clips_first=False,
):
    """A wrong answer with the signature of expand."""

    def clip(grid, seconds, merge):
        groups = ""
        count = merged(grid[1] * grid[2], merge)
        if one_group:
            return label.format(seconds[0]) + START + VIDEO * (grid[0] * count) + END
        for second in seconds:
            said = label.format(seconds[0] if first_second else second)
            inner = (said if label_inside else "") + VIDEO * count
            groups += ("" if label_inside else said) + (START + inner + END if around else inner)
        return groups

    def answer(text, *, image_grids=(), video_grids=(), video_seconds=(), spatial_merge_size=2, nested=False):
        pictures = [IMAGE * merged(grid[0] * grid[1] * grid[2], spatial_merge_size) for grid in image_grids]
        clips = [
            clip(grid, seconds, spatial_merge_size) for grid, seconds in zip(video_grids, video_seconds, strict=True)
        ]
        triple = START + VIDEO + END
        nested = nested or always_nested
        if clips_first:
            # what stands first in the text takes the first thing, whatever its kind
            things = iter(clips + pictures)
            pattern = "|".join(map(re.escape, (triple, VIDEO, IMAGE)))
            return re.sub(pattern, lambda found: next(things), text)
        pattern = "|".join(map(re.escape, (VIDEO, IMAGE) if nested or not whole else (triple, VIDEO, IMAGE)))
        left = iter(pictures), iter(clips)
        return re.sub(pattern, lambda found: next(left[0] if found[0] == IMAGE else left[1]), text)

    return answer


counted_before_merging = expands(merged=lambda cells, merge: cells)
merged_by_the_side = expands(merged=lambda cells, merge: cells // merge)
two_by_two_always = expands(merged=lambda cells, merge: cells // 4)
whole_seconds = expands(label="<{:.0f} seconds>")
two_digits = expands(label="<{:.2f} seconds>")
without_the_angles = expands(label="{:.1f} seconds")
no_seconds = expands(label="")
no_pair_around_a_group = expands(around=False)
pair_around_the_clip_stays = expands(always_nested=True)
one_stretch_for_all_groups = expands(one_group=True)
second_of_the_first_group = expands(first_second=True)
second_inside_the_pair = expands(label_inside=True)
clips_before_pictures = expands(clips_first=True)


def only_the_first_placeholder(
    text, *, image_grids=(), video_grids=(), video_seconds=(), spatial_merge_size=2, nested=False
):
    merge = spatial_merge_size
    for grid in image_grids[:1]:
        text = text.replace(IMAGE, IMAGE * (grid[0] * grid[1] * grid[2] // merge**2), 1)
    rest = {"video_grids": video_grids, "video_seconds": video_seconds}
    images = [(1, merge, merge)] * text.count(IMAGE)
    return expands()(text, image_grids=images, spatial_merge_size=merge, nested=nested, **rest)


def replaced_again_and_again(
    text, *, image_grids=(), video_grids=(), video_seconds=(), spatial_merge_size=2, nested=False
):
    # the second picture's turn finds the first one's placeholders, which are already written
    merge = spatial_merge_size
    for grid in image_grids:
        text = text.replace(IMAGE, IMAGE * (grid[0] * grid[1] * grid[2] // merge**2), 1)
    rest = {"video_grids": video_grids, "video_seconds": video_seconds}
    images = [(1, merge, merge)] * text.count(IMAGE)
    return expands()(text, image_grids=images, spatial_merge_size=merge, nested=nested, **rest)


def nested_ignored(text, *, nested=False, **arguments):
    return expands()(text, **arguments)


TOKENS = "gh * gw // spatial_merge_size**2"

EXPAND = [
    (
        counted_before_merging,
        (
            "A picture of 4 x 4 patches, merged 2 x 2: how many tokens?",
            "Patches are counted, but the model gets merged ones.",
            TOKENS,
        ),
    ),
    (
        merged_by_the_side,
        (
            "A picture of 4 x 4 patches, merged 2 x 2: how many tokens?",
            "The patches are divided by the side of a block, not by its area.",
            TOKENS,
        ),
    ),
    (two_by_two_always, ("Try spatial_merge_size=3.", "Blocks of 2 x 2 are assumed.", TOKENS)),
    (
        whole_seconds,
        ("Try 0.5 seconds.", "The seconds are rounded to whole ones.", "f'<{second:.1f} seconds>'"),
    ),
    (
        two_digits,
        ("How many digits stand behind the point?", "There is one digit too many.", "f'<{second:.1f} seconds>'"),
    ),
    (
        without_the_angles,
        ("What stands around the seconds?", "The angle brackets are missing.", "f'<{second:.1f} seconds>'"),
    ),
    (
        no_seconds,
        (
            "What stands before each frame group?",
            "The seconds are missing, and with them all the model knows of time.",
            "f'<{second:.1f} seconds>'",
        ),
    ),
    (
        no_pair_around_a_group,
        (
            "What stands around the placeholders of a frame group?",
            "<|vision_start|> and <|vision_end|> are missing: they belong to each group.",
            "<0.3 seconds><|vision_start|>...<|vision_end|><1.3 seconds><|vision_start|>...<|vision_end|>",
        ),
    ),
    (
        pair_around_the_clip_stays,
        (
            "Count the tokens of one clip of one frame group.",
            "The pair around the whole clip stays, two tokens too many: transformers 5 does that.",
            "Replace <|vision_start|><|video_pad|><|vision_end|> as a whole.",
        ),
    ),
    (
        one_stretch_for_all_groups,
        (
            "Try a clip of two frame groups.",
            "All groups stand in one stretch, with one second.",
            "One second and one pair of start and end for each group.",
        ),
    ),
    (
        second_of_the_first_group,
        (
            "Try a clip of two frame groups.",
            "Every group gets the second of the first one.",
            "for second in seconds: ...",
        ),
    ),
    (
        second_inside_the_pair,
        (
            "Where does the second stand?",
            "The second stands behind <|vision_start|>; it belongs in front of it.",
            "<0.3 seconds><|vision_start|>...<|vision_end|>",
        ),
    ),
    (
        clips_before_pictures,
        (
            "Try a prompt with a picture before a clip.",
            "The first placeholder takes the first clip, also where it is that of a picture.",
            "Pictures and clips are taken from two lists, each in its own order.",
        ),
    ),
    (
        only_the_first_placeholder,
        (
            "Try two pictures.",
            "Only the first picture is expanded.",
            "re.sub with a function that gives the next picture each time",
        ),
    ),
    (
        replaced_again_and_again,
        (
            "Try two pictures.",
            "The second picture replaces a placeholder that the first one has written.",
            "re.sub goes through the text once; str.replace sees what was put in before.",
        ),
    ),
    (
        nested_ignored,
        ("Try nested=True.", "nested is not used.", "With nested=True replace <|video_pad|> alone; its pair stays."),
    ),
]

# ---- answer_labels


def learns(
    *,
    bare=False,
    header_too=False,
    newline_too=False,
    end_too=True,
    line_too=True,
    cut_too=False,
    first_only=False,
    shifted=False,
):
    """A wrong answer with the signature of answer_labels."""

    def answer(ids, *, header, end):
        labels, place = [-100] * len(ids), 0
        key = header[1:] if bare else header
        while place <= len(ids) - len(key):
            if ids[place : place + len(key)] != key:
                place += 1
                continue
            first = place + len(key) + 1
            last = next((i for i in range(first, len(ids)) if ids[i] == end), None)
            if last is None and not cut_too:
                break
            begin = place if header_too else first - 1 if newline_too else first
            stop = len(ids) if last is None else last + end_too + (end_too and line_too)
            labels[begin:stop] = ids[begin:stop]
            place = len(ids) if last is None or first_only else last + 1
        return labels[1:] + [-100] if shifted else labels

    return answer


bare_word = learns(bare=True)
header_learnt = learns(header_too=True)
newline_of_the_header_learnt = learns(newline_too=True)
end_not_learnt = learns(end_too=False)
newline_after_the_end_not_learnt = learns(line_too=False)
cut_answer_learnt = learns(cut_too=True)
first_answer_only = learns(first_only=True)
shifted_by_one = learns(shifted=True)


def everything_learnt(ids, *, header, end):
    return list(ids)


def questions_learnt(ids, *, header, end):
    answers = learns()(ids, header=header, end=end)
    return [token if label == -100 else -100 for token, label in zip(ids, answers, strict=True)]


def ignored_by_zero(ids, *, header, end):
    return [0 if label == -100 else label for label in learns()(ids, header=header, end=end)]


def last_answer_only(ids, *, header, end):
    labels = learns()(ids, header=header, end=end)
    starts = [place for place in range(len(ids)) if ids[place : place + len(header)] == header]
    return [-100] * max(starts, default=0) + labels[max(starts, default=0) :]


def header_of_two_tokens(ids, *, header, end):
    return learns()(ids, header=header[:2], end=end)


def to_the_last_end(ids, *, header, end):
    labels = learns()(ids, header=header, end=end)
    known = [place for place, label in enumerate(labels) if label != -100]
    return (
        [-100] * len(ids) if not known else labels[: known[0]] + ids[known[0] : known[-1] + 1] + labels[known[-1] + 1 :]
    )


LABELS = [
    (
        bare_word,
        (
            'Ask: "Are you an assistant or a tool?"',
            'The word "assistant" in a question begins a false answer: the published fine-tuning code does that.',
            "Look for <|im_start|> and the word behind it, the whole header.",
        ),
    ),
    (
        header_learnt,
        (
            "Which is the first token that counts?",
            "The header counts too, but it stands there before the model begins to write.",
            "first = place + len(header) + 1",
        ),
    ),
    (
        newline_of_the_header_learnt,
        (
            "Which is the first token that counts?",
            "The newline behind the header counts; the generation prompt has it already.",
            "first = place + len(header) + 1",
        ),
    ),
    (
        end_not_learnt,
        (
            "Which is the last token that counts?",
            "The end of the answer does not count, so the model never learns to stop.",
            "labels[first : last + 2], where last is the place of <|im_end|>",
        ),
    ),
    (
        newline_after_the_end_not_learnt,
        (
            "Which is the last token that counts?",
            "The newline behind <|im_end|> counts too.",
            "labels[first : last + 2], where last is the place of <|im_end|>",
        ),
    ),
    (
        cut_answer_learnt,
        (
            "Try an answer without <|im_end|>.",
            "An answer that was cut off counts to where it was cut.",
            "Without an end there is no answer: leave its labels at -100.",
        ),
    ),
    (
        first_answer_only,
        ("Try two answers.", "Only the first answer counts.", "Go on behind each answer, to the end of the tokens."),
    ),
    (
        shifted_by_one,
        (
            "Compare each label with the token of the same place.",
            "The labels are shifted by one; the loss shifts them, so they are shifted twice.",
            "label i is token i",
        ),
    ),
    (
        everything_learnt,
        (
            "Do questions count?",
            "Every token counts, also those of questions and pictures.",
            "labels = [-100] * len(ids)",
        ),
    ),
    (
        questions_learnt,
        (
            "Which tokens are -100?",
            "The questions count, the answers do not.",
            "labels[first : last + 2] = ids[first : last + 2]",
        ),
    ),
    (
        ignored_by_zero,
        (
            "What is the label of a question?",
            "0 is a token; what does not count is -100.",
            "labels = [-100] * len(ids)",
        ),
    ),
    (
        last_answer_only,
        ("Try two answers.", "Only the last answer counts.", "Every answer of the conversation counts."),
    ),
    (
        header_of_two_tokens,
        (
            "Try a header of three tokens.",
            "Only two tokens of the header are looked at; a tokenizer may need more for the word.",
            "ids[place : place + len(header)] == header",
        ),
    ),
    (
        to_the_last_end,
        (
            "Try two answers with a question between them.",
            "All that stands between the first answer and the last end counts.",
            "An answer ends with the next <|im_end|>.",
        ),
    ),
]

NAMED = {"chat_text": CHAT, "timestamps": TIMESTAMPS, "expand": EXPAND, "answer_labels": LABELS}
MISTAKES = {name: [Mistake(answer, hints) for answer, hints in found] for name, found in NAMED.items()}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Conversations on which no two of the mistakes above give the same."""
    if name == "chat_text":
        said = {"role": "user", "content": [{"text": " a "}, {"type": "image"}, {"type": "video"}, {"video": "b"}]}
        yield ([said, {"role": "assistant", "content": "c\n"}],), {}
        yield ([said, said],), {"add_vision_id": True}
        yield ([said],), {"add_generation_prompt": True}
    if name == "timestamps":
        for frames in ([7, 8, 20, 23], [0, 31, 62, 93, 200], [3]):
            for size in (2, 3, 4):
                yield (list(frames), 25.0), {"temporal_patch_size": size}
                yield (list(frames), None), {"temporal_patch_size": size}
    if name == "expand":
        text = START + IMAGE + END + "a" + START + VIDEO + END + "b" + START + IMAGE + END
        for merge in (1, 2, 3):
            grids = {
                "image_grids": [(1, 2 * merge, merge), (1, 3 * merge, merge)],
                "video_grids": [(2, merge, 2 * merge)],
                "video_seconds": [[0.25, 1.55]],
                "spatial_merge_size": merge,
            }
            yield (text,), grids
            yield (text,), {**grids, "nested": True}
    if name == "answer_labels":
        header, end = [91, 92, 93], 94
        turns = [91, 90, 95, 92, 93, 1, 94, 95], [91, 92, 93, 95, 2, 3, 94, 95], [91, 92, 90, 95, 4, 94, 95]
        for ids in (sum(turns, []), sum(turns[:2], []) * 2, turns[1] + [91, 92, 93, 95, 5], turns[0]):
            yield (list(ids),), {"header": list(header), "end": end}
        yield ([91, 92, 95, 1, 94, 95],), {"header": [91, 92], "end": 94}
