"""Rules for a chapter: Markdown that GitHub, JupyterLab and the web book show alike, and what a chapter must hold."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The eight parts of a chapter, in order, by a word in their headings of the second level.
PARTS = {
    "a question": r"question|\?$",
    "the idea by hand": r"\bhand\b",
    "the code in small cells": r"\bcode\b",
    "a picture": r"\bpicture",
    "the law": r"\blaws?\b",
    "exercises": r"\bexercises\b",
    "what broke in the wild": r"\bwild\b",
    "in the large": r"\blarge\b",
}
TAGS = {"show", "exercise", "check", "no-output"}
# Of these, only python becomes a cell; jupytext would execute bash and the like by magic.
LANGUAGES = {"python", "text", "console", "json"}
HEAD = re.compile(r'python(?: tags=(?P<tags>\["[\w-]+"(?:, "[\w-]+")*\]))?(?: source="(?P<source>[\w/]+\.py)")?')
LONGEST_CODE_LINE, LONGEST_LINE = 120, 160
EXERCISES, HINTS = 3, 3
# Marks the head of a fence that is never closed.
OPEN = " (never closed)"
PUNCTUATION = re.escape(r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")


@dataclass(frozen=True)
class Fence:
    """A fenced block: the number of its first line, what stands behind the backticks, and its text."""

    line: int
    info: str
    text: str

    @property
    def tags(self) -> list[str]:
        head = HEAD.fullmatch(self.info)
        return json.loads(head["tags"]) if head and head["tags"] else []

    @property
    def source(self) -> str | None:
        head = HEAD.fullmatch(self.info)
        return head["source"] if head else None

    @property
    def is_code(self) -> bool:
        return self.info.split(" ")[0] == "python"


def lint(chapter: Path) -> list[str]:
    """Every broken rule, as "file:line: what is wrong", in the order of the lines."""
    text = chapter.read_text(encoding="utf-8")
    root = chapter.parents[1]
    rules = (
        *(fences_are_plain(text), lines_are_short(text), headings_are_in_order(text), parts_are_all_there(text)),
        *(math_is_portable(text), html_is_only_hints(text), exercises_are_checked(text), code_is_python(text)),
        *(links_lead_somewhere(text, chapter.parent), code_is_the_packages(text, root / "minivid")),
    )
    found = sorted(set((line, words) for rule in rules for line, words in rule))
    return [f"{chapter.name}:{line}: {words}" for line, words in found]


def split(text: str) -> tuple[list[tuple[int, str]], list[Fence]]:
    """The lines outside fenced blocks, numbered, and the blocks. One never closed runs to the next, or the end."""
    prose, fences, opened = [], [], None
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None and line.startswith("```"):
            opened, info, inside = number, line[3:], []
        elif opened is None:
            prose.append((number, line))
        elif line.rstrip() == "```":
            fences.append(Fence(opened, info, "\n".join(inside)))
            opened = None
        elif line.startswith("```"):
            fences.append(Fence(opened, info + OPEN, "\n".join(inside)))
            opened, info, inside = number, line[3:], []
        else:
            inside.append(line)
    if opened is not None:
        fences.append(Fence(opened, info + OPEN, "\n".join(inside)))
    return prose, fences


def without_code(line: str) -> str:
    """A line of prose with `code` blanked out."""
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", lambda found: " " * len(found[0]), line)


def fences_are_plain(text: str) -> Iterator[tuple[int, str]]:
    prose, fences = split(text)
    for number, line in prose:
        if re.match(r"\s+```|~~~", line):
            yield number, "a fence starts at the first column, with three backticks"
    for fence in fences:
        if fence.info.endswith(OPEN):
            yield fence.line, "this fence is never closed"
        elif fence.info.split(" ")[0] not in LANGUAGES:
            yield fence.line, f"a fence is one of {', '.join(sorted(LANGUAGES))}, not {fence.info or 'without a name'}"
        elif fence.is_code and not HEAD.fullmatch(fence.info):
            yield (
                fence.line,
                'the head of a code cell reads ```python tags=["exercise"] source="minivid/video/patches.py"',
            )
        elif set(fence.tags) - TAGS:
            yield fence.line, f"tags are {', '.join(sorted(TAGS))}, not {', '.join(sorted(set(fence.tags) - TAGS))}"


def lines_are_short(text: str) -> Iterator[tuple[int, str]]:
    prose, fences = split(text)
    for number, line in prose:
        # A row of a table and a link cannot be folded.
        if len(line) > LONGEST_LINE and not line.startswith("|") and "](" not in line:
            yield number, f"a line of {len(line)} characters; at most {LONGEST_LINE}"
    for fence in fences:
        for number, line in enumerate(fence.text.splitlines(), fence.line + 1):
            if len(line) > LONGEST_CODE_LINE:
                yield number, f"a line of code of {len(line)} characters; at most {LONGEST_CODE_LINE}"
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line != line.rstrip() or "\t" in line:
            yield number, "white space at the end of the line, or a tab"
    for number, line in prose[1:]:
        if not line and not lines[number - 2]:
            yield number, "two blank lines in a row; they would cut a cell in two"


def headings(text: str) -> list[tuple[int, int, str]]:
    """Line, level and words of each heading."""
    found = ((number, re.match(r"(#+) +(.+)", line)) for number, line in split(text)[0])
    return [(number, len(match[1]), match[2].strip()) for number, match in found if match]


def headings_are_in_order(text: str) -> Iterator[tuple[int, str]]:
    found = headings(text)
    if not text.startswith("# "):
        yield 1, "a chapter starts with its title, # Title"
    for (number, level, words), (_, before, _) in zip(found[1:], found, strict=False):
        if level == 1:
            yield number, f"a second title: {words}"
        elif level > before + 1:
            yield number, f"the heading skips from level {before} to {level}: {words}"
    titles = [words for _, _, words in found]
    for number, _, words in found:
        if titles.count(words) > 1:
            yield number, f"two headings read alike, so that a link cannot tell them apart: {words}"
    for number, line in split(text)[0]:
        if re.match(r"(=+|-+)$", line) or re.match(r"#+[^# ]", line):
            yield number, "a heading is # and a space and its words"


def parts_are_all_there(text: str) -> Iterator[tuple[int, str]]:
    rest = [(number, words) for number, level, words in headings(text) if level == 2]
    for part, pattern in PARTS.items():
        places = [i for i, (_, words) in enumerate(rest) if re.search(pattern, words, re.IGNORECASE)]
        if not places:
            yield 1, f"no heading for the part: {part} (parts come in the order {', '.join(PARTS)})"
        else:
            rest = rest[places[0] + 1 :]


def math_is_portable(text: str) -> Iterator[tuple[int, str]]:
    display, paragraph = None, 0
    for number, line in split(text)[0]:
        line = without_code(line).replace(r"\$", "  ")
        if "$$" in line:
            if line.strip() != "$$":
                yield number, "$$ stands on a line of its own"
            display = None if display else number
            continue
        if re.search(r"\\[\[\]()]", line) and not display:
            yield number, r"math is written $...$, or $$ on lines of their own, not \( \) or \[ \]"
        spans = [line] if display else re.findall(r"\$([^$]*)\$", line)
        if not display:
            if line.count("$") % 2:
                yield number, r"a $ without its partner on the line (a dollar is \$)"
            else:
                # Split at the dollars: words and formulas take turns, beginning and ending with words.
                turns = line.split("$")
                if any(formula != formula.strip() for formula in turns[1::2]):
                    yield number, "no space between $ and the formula"
                if any(re.search(r"\w$", words) for words in turns[0:-1:2]) or any(
                    re.match(r"\w", words) for words in turns[2::2]
                ):
                    yield number, "a formula $...$ needs a space or punctuation on either side"
            paragraph = (
                paragraph + sum(len(re.findall(f"[{PUNCTUATION}]_[{PUNCTUATION}]", s)) for s in spans) if line else 0
            )
            if paragraph > 1:
                yield number, "}_{ twice in a paragraph is taken for italics; use a letter before _ or a $$ block"
        for span in spans:
            if found := re.search(rf"\\[{PUNCTUATION}]", span):
                yield (
                    number,
                    rf"{found[0]} in math loses its backslash on GitHub; use \lbrace, \quad, \Vert, or two blocks",
                )
            if "*" in span and not display:
                yield number, r"* in math may be taken for italics; use \ast or \cdot"
    if display:
        yield display, "this $$ is never closed"


def html_is_only_hints(text: str) -> Iterator[tuple[int, str]]:
    lines, opened = text.splitlines(), None
    fenced = {fence.line for fence in split(text)[1] if fence.is_code}
    for number, line in split(text)[0]:
        line = re.sub(r"\$[^$]*\$|<https?://[^>]+>", "", without_code(line))
        for tag in re.findall(r"</?([a-zA-Z][\w-]*)[^>]*>|<!--", line):
            if tag not in ("details", "summary"):
                yield number, f"HTML other than <details> and <summary>: <{tag or '!--'}>"
        if "<details>" in line:
            if opened:
                yield number, "<details> inside <details>"
            opened = number
            if not re.fullmatch(r"<details><summary>[^<]+</summary>", line):
                yield number, "a hint starts <details><summary>Hint 1</summary> on one line"
            elif lines[number : number + 1] != [""]:
                yield number, "a blank line follows <summary>, or the Markdown below is not rendered"
        if "</details>" in line:
            if not opened:
                yield number, "</details> closes nothing"
            elif line != "</details>" or lines[number - 2]:
                yield number, "</details> stands alone, after a blank line"
            elif any(opened < start < number for start in fenced):
                yield opened, "a code cell inside <details>: the cell would cut it in two; use a ```text fence"
            opened = None
    if opened:
        yield opened, "this <details> is never closed"


def links_lead_somewhere(text: str, folder: Path) -> Iterator[tuple[int, str]]:
    reading = False
    for number, line in split(text)[0]:
        if re.match("#+ ", line):
            reading = "reading" in line.lower()
        line = without_code(line)
        for image, words, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)", line):
            if image and not words.strip():
                yield number, f"the picture {target} has no words for those who do not see it"
            path = target.split("#")[0]
            if re.match("https?://", target) or not path:
                continue
            if ":" in path or path.startswith("/"):
                yield number, f"a link that leads out of the project: {target}"
            elif not (folder / path).exists():
                yield number, f"nothing stands at {target}"
        if not reading and re.search(r"(?<![(<])https?://", line):
            yield number, "a bare address; write [words](address), or put it under a heading with the word reading"


def code_is_python(text: str) -> Iterator[tuple[int, str]]:
    for fence in split(text)[1]:
        if fence.is_code:
            try:
                ast.parse(fence.text)
            except SyntaxError as error:
                yield fence.line + (error.lineno or 0), f"not Python: {error.msg}"
    code = "\n".join(fence.text for fence in split(text)[1] if fence.is_code)
    if re.search(r"\brandom\.(?!Random|seed)", re.sub(r"\.random\.", ".", code)) and "random.seed(" not in code:
        yield 1, "Python's random is not seeded; write random.seed(0), or draw from random.Random(0)"


def exercises_are_checked(text: str) -> Iterator[tuple[int, str]]:
    fences = [fence for fence in split(text)[1] if fence.is_code]
    exercises = [fence for fence in fences if "exercise" in fence.tags]
    if len(exercises) < EXERCISES:
        yield 1, f"{len(exercises)} exercises; a chapter has at least {EXERCISES}"
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        begins, ends = fence.text.count("### BEGIN SOLUTION"), fence.text.count("### END SOLUTION")
        if begins != ends:
            yield fence.line, f"{begins} times ### BEGIN SOLUTION and {ends} times ### END SOLUTION"
        if "exercise" not in fence.tags:
            if begins:
                yield fence.line, "a solution in a cell that is not tagged exercise"
            continue
        if not begins:
            yield fence.line, "an exercise without a solution between ### BEGIN SOLUTION and ### END SOLUTION"
        if after is None or "check" not in after.tags:
            yield fence.line, "an exercise is followed by a cell tagged check"
    for step in range(1, HINTS + 1):
        hints = sum(f"<summary>Hint {step}</summary>" in line for _, line in split(text)[0])
        if hints < len(exercises):
            yield 1, f"{len(exercises)} exercises, but Hint {step} is given for {hints}"


def code_is_the_packages(text: str, package: Path) -> Iterator[tuple[int, str]]:
    """A function or class in a cell tagged show or exercise, of a name that the package defines, is the package's.

    Annotations and bodies are compared as syntax trees. A docstring may be left out or cut to its first line, since the
    chapter itself explains; it may not say something else. `source="minivid/video/patches.py"` on the cell says which
    file is meant; it is needed where two files define the name.
    """
    for fence in split(text)[1]:
        if not {"show", "exercise"} & set(fence.tags):
            continue
        try:
            nodes = [node for node in ast.parse(fence.text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        except SyntaxError:
            continue  # reported by code_is_python
        matched = 0
        for node in nodes:
            places = definitions(package).get(node.name, {})
            if fence.source:
                places = {path: body for path, body in places.items() if path == fence.source}
            if len(places) > 1:
                yield fence.line, f'{node.name} stands in {" and ".join(places)}; say source="..." which is meant'
            for path, theirs in places.items():
                matched += 1
                if not same_code(node, theirs):
                    yield fence.line + node.lineno, f"{node.name} is not the {node.name} of {path}"
        if not matched and ("show" in fence.tags or fence.source):
            yield fence.line, f"a cell tagged show, or with a source, shows nothing of {fence.source or 'minivid'}"


@cache
def definitions(package: Path) -> dict[str, dict[str, ast.AST]]:
    """Every function and class of the package by name, and by the file it stands in."""
    found: dict[str, dict[str, ast.AST]] = {}
    for path in sorted(package.rglob("*.py")):
        if "_tests" not in path.parts:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    found.setdefault(node.name, {})[path.relative_to(package.parent).as_posix()] = node
    return found


def same_code(shown: ast.AST, theirs: ast.AST) -> bool:
    """Whether two definitions are equal, docstrings aside, and no shown docstring says what theirs does not."""
    ours, other = bare(shown), bare(theirs)
    words, full = docstrings(shown), docstrings(theirs)
    kept = all(said in (full.get(name), (full.get(name) or "").split("\n")[0]) for name, said in words.items())
    return ast.dump(ours) == ast.dump(other) and kept


def docstrings(tree: ast.AST) -> dict[str, str]:
    """The docstrings in a definition by the name of what they describe."""
    named = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return {node.name: words for node in named if (words := ast.get_docstring(node))}


def bare(tree: ast.AST) -> ast.AST:
    """The definition without docstrings and without the markers of solutions, which are comments."""
    tree = ast.parse(ast.unparse(tree)).body[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
