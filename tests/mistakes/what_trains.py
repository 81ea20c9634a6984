"""Classic wrong answers about which parts of a model that sees and writes learn, each with three hints."""

from collections.abc import Iterator

from minivid.classroom.museum import Mistake
from minivid.training.what_trains import part_settings as right


def wrong(change):
    """An answer that differs from the right one in what it is asked, or in what it says."""

    def answer(names, *, vision=True, merger=True, language=True, merger_rate=None, vision_rate=None):
        asked = dict(vision=vision, merger=merger, language=language, merger_rate=merger_rate, vision_rate=vision_rate)
        return change(tuple(names), asked)

    answer.__name__ = change.__name__
    return answer


@wrong
def rates_swapped(names, asked):
    asked["merger_rate"], asked["vision_rate"] = asked["vision_rate"], asked["merger_rate"]
    return right(names, **asked)


@wrong
def merger_goes_with_vision(names, asked):
    return right(names, **asked | {"merger": asked["vision"]})


@wrong
def vision_goes_with_merger(names, asked):
    return right(names, **asked | {"vision": asked["vision"] or asked["merger"]})


@wrong
def deepstack_goes_with_the_merger(names, asked):
    said = right(names, **asked)
    return said | {"freeze": ("merger",) if said["freeze"] else ()}


@wrong
def frozen_by_the_bare_word(names, asked):
    said = right(names, **asked)
    return said | {"train_only": tuple("visual." if p == "visual.merger." else p for p in said["train_only"])}


@wrong
def head_goes_with_language(names, asked):
    said = right(names, **asked)
    freeze = said["freeze"] + (() if asked["language"] or "lm_head.weight" not in names else ("lm_head.",))
    return said | {"freeze": freeze}


@wrong
def vision_rate_for_mergers_too(names, asked):
    said = right(names, **asked)
    return said | {"rates": dict(sorted(said["rates"].items(), reverse=True))}


@wrong
def only_the_merger_has_its_rate(names, asked):
    said = right(names, **asked)
    rates = {("visual.merger." if piece == "merger" else piece): rate for piece, rate in said["rates"].items()}
    return said | {"rates": rates}


@wrong
def vision_rate_without_the_mergers(names, asked):
    said = right(names, **asked)
    alone = asked["vision_rate"] and not asked["merger_rate"] and asked["vision"]
    return said | ({"rates": {"visual": asked["vision_rate"]}} if alone else {})


@wrong
def rates_of_what_is_frozen(names, asked):
    rates = {}
    if asked["merger_rate"]:
        rates = {"merger": asked["merger_rate"]}
        if asked["vision_rate"]:
            rates["visual"] = asked["vision_rate"]
    return right(names, **asked) | {"rates": rates}


ROWS = [
    (
        rates_swapped,
        (
            "Which of the two rates is the larger in the recipe, and whose is it?",
            "The merger has the vision's rate and the other way round.",
            '{"merger": merger_rate, "visual": vision_rate}.',
        ),
    ),
    (
        merger_goes_with_vision,
        (
            "Let vision learn and not the merger. What moves?",
            "The merger lies inside `visual`, but has a switch of its own.",
            'Freeze "visual.merger." where vision learns and the merger does not.',
        ),
    ),
    (
        vision_goes_with_merger,
        (
            "Let the merger learn alone. What moves?",
            "All of `visual` moves; only `visual.merger.` should.",
            'Without vision, train_only has "visual.merger." instead of "visual.".',
        ),
    ),
    (
        deepstack_goes_with_the_merger,
        (
            "Which switch do the DeepStack mergers follow?",
            "They follow vision; the word merger is in their name, but they are not `visual.merger`.",
            'Freeze "visual.merger.", not "merger".',
        ),
    ),
    (
        frozen_by_the_bare_word,
        (
            "Let the merger learn alone. What moves?",
            "A part of the vision tower that nobody asked for.",
            'Write "visual.merger." where vision does not learn.',
        ),
    ),
    (
        head_goes_with_language,
        (
            "Which switch does an untied head follow?",
            "None: in the published recipe it always learns.",
            'Put "lm_head." into train_only whatever the switches say.',
        ),
    ),
    (
        vision_rate_for_mergers_too,
        (
            "Two pieces are in a merger's name. Which rate counts?",
            'That of the first piece in `rates`: "visual" comes first here, and is in every merger\'s name.',
            'Put "merger" before "visual".',
        ),
    ),
    (
        only_the_merger_has_its_rate,
        (
            "Which rate have the DeepStack mergers?",
            "That of the merger: rates go by the word merger, switches do not.",
            'The piece is "merger".',
        ),
    ),
    (
        vision_rate_without_the_mergers,
        (
            "What does the recipe do with a rate for vision if there is none for the merger?",
            "It does not look at it.",
            "Only where merger_rate is given, vision_rate counts.",
        ),
    ),
    (
        rates_of_what_is_frozen,
        (
            "Freeze vision. Whose is its rate then?",
            "Nobody's, and FinetuneConfig refuses a rate that is nobody's.",
            "Leave out the rates of parts that do not learn.",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {"part_settings": [Mistake(*row) for row in ROWS]}

NAMES = (
    "visual.patch_embed.weight",
    "visual.blocks.0.norm1.bias",
    "visual.merger.linear_fc1.weight",
    "visual.deepstack_merger_list.0.norm.weight",
    "language_model.embed_tokens.weight",
)


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    for names in (NAMES, (*NAMES, "lm_head.weight")):
        for vision in (False, True):
            for merger in (False, True):
                for rates in ((None, None), (3.0, None), (None, 2.0), (3.0, 2.0)):
                    yield (
                        (names,),
                        {
                            "vision": vision,
                            "merger": merger,
                            "language": merger,
                            "merger_rate": rates[0],
                            "vision_rate": rates[1],
                        },
                    )
