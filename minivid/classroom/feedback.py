"""A verdict in about a dozen lines that a newcomer can act on."""

import inspect

from minivid.classroom.child import Stopped
from minivid.classroom.evidence import Broken, show
from minivid.classroom.judge import Bench, Verdict
from minivid.classroom.prose import clean, last_lines

# How many lines of what the answer prints are shown.
PRINTED = 3
# How many of the laws that hold are quoted beside one that breaks.
HELD = 3


def summary(verdict: Verdict) -> str:
    """The verdict in one line."""
    if verdict.good:
        return f"{verdict.name}: all {len(verdict.held)} laws hold"
    return f"{verdict.name}: not yet"


def feedback(verdict: Verdict, bench: Bench, *, hint: int, again: str) -> str:
    """All there is to say on a verdict.

    Args:
        verdict: what came of putting the laws to the answer.
        bench: what it was judged by.
        hint: which of the three hints of a known mistake is shown, 1 to 3.
        again: how to ask for the next hint, with `{}` where its number goes.
    """
    lines = [summary(verdict)]
    if isinstance(verdict.error, NotImplementedError):
        lines.append("  Nothing to check: it still raises NotImplementedError. Write its body, then check again.")
        return "\n".join(lines)
    if verdict.good:
        return "\n".join([*lines, *(f"  holds   {sentence}" for sentence in verdict.held)])
    if len(verdict.held) > HELD:
        more = len(verdict.held) - HELD
        lines.append(f"  holds   {more} law{'s' if more > 1 else ''}, and")
    lines += [f"  holds   {sentence}" for sentence in verdict.held[-HELD:]]
    label = "STOPS  " if isinstance(verdict.error, Stopped) else "BREAKS "
    lines += [f"  {label} {verdict.broken}", "", *reason(verdict, bench)]
    if getattr(verdict.error, "unsteady", False):
        lines.append("It does not give the same result each time it is asked the same.")
    if verdict.mistake:
        words = clean(verdict.mistake.hints[hint - 1], 1000)
        lines += ["", f"This is how a known mistake behaves. Hint {hint} of 3: {words}"]
        if hint < 3:
            lines.append(f"For a plainer hint: {again.format(hint + 1)}")
    return "\n".join([*lines, *prints(verdict.printed)])


def stumble(file: str, error: BaseException, printed: str) -> str:
    """What to say of a file that could not be loaded."""
    place = where(error)
    at = f"{file}, line {place[0]}: {clean(place[1])}" if place else file
    kind = "" if isinstance(error, Stopped) or type(error).__name__ == "AnswerError" else f"{type(error).__name__}: "
    lines = [f"{file}: it cannot be loaded", f"  {at}", f"  {kind}{clean(error, 300)}"]
    return "\n".join([*lines, *prints(printed)])


def prints(text: str) -> list[str]:
    """The end of what the answer printed, if it printed anything."""
    return ["", "The last of what it printed:", *last_lines(text, PRINTED)] if text.strip() else []


def reason(verdict: Verdict, bench: Bench) -> list[str]:
    """What shows that the law is broken."""
    error, name = verdict.error, verdict.name
    place = where(error)
    if isinstance(error, Broken):
        return [f"The smallest input found: {clean(error.claim, 300)}", *shown(error.shown)]
    if isinstance(error, Stopped):
        return [f"{clean(error)[:1].upper()}{clean(error)[1:]}", *called(verdict, bench)]
    if "SignatureError" in {kind.__name__ for kind in type(error).__mro__} and place is None:
        wanted = signature(getattr(bench.library, name))
        return [f"It cannot be called as the laws call it: {clean(error)}.", f"Its signature should be {name}{wanted}"]
    kind = "" if type(error).__name__ == "AnswerError" else f"{type(error).__name__}: "
    at = f"Line {place[0]} of your code: {clean(place[1])}" if place else "While the law was put to it:"
    return [at, f"  {kind}{clean(error, 300)}", *called(verdict, bench)]


def called(verdict: Verdict, bench: Bench) -> list[str]:
    """The last call that the answer got, its arguments by the names they have in the library."""
    if verdict.call is None:
        return []
    name, arguments, keywords = verdict.call
    try:
        given = inspect.signature(getattr(bench.library, name)).bind_partial(*arguments, **keywords).arguments
    except TypeError:  # a law about arguments that do not fit
        given = {**{str(i): value for i, value in enumerate(arguments, 1)}, **keywords}
    return [f"It was called as {name}(...) with", *shown(given)]


def shown(values: dict[str, object]) -> list[str]:
    """Named values, a tensor as rows of numbers."""
    return [line for name, value in values.items() for line in show(name, value).splitlines()]


def where(error: BaseException) -> tuple[int, str] | None:
    """The line of the answer's code where an exception arose."""
    place = getattr(error, "place", None)
    return None if place is None or place.line is None else (place.line, place.text)


def signature(function: object) -> str:
    """Parameters and defaults, without the annotations."""
    full = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in full.parameters.values()]
    return str(full.replace(parameters=bare, return_annotation=inspect.Signature.empty))
