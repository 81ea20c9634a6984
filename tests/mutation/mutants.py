"""Every small change that mutmut knows, made to a module: each mutant is the whole source with one place changed."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import libcst as cst
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import NEVER_MUTATE_FUNCTION_NAMES, ChildReplacementTransformer, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        function: the function or method that is changed, as "attend" or "KVCache.append"; "" outside of all.
        was, becomes: the lines that differ, without their indentation.
        nth: 1 for the first mutant of these three, 2 for the second (the same line may stand in a function twice).
        line: where the change begins.
        source: the text of the changed module.
    """

    function: str
    was: str
    becomes: str
    nth: int
    line: int
    source: str


class _Everywhere(MutationVisitor):
    """mutmut's walk, and into decorated functions too: it leaves them out only because it could not switch them."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef) and node.decorators:
            return node.name.value in NEVER_MUTATE_FUNCTION_NAMES
        # A type, as in `Context = Float[Tensor, "b s d"]`, is no more a part of the program than an annotation.
        if isinstance(node, cst.Subscript) and isinstance(node.value, cst.Name) and node.value.value in dir(jaxtyping):
            return True
        return super()._skip_node_and_children(node)


def mutants_of(source: str) -> list[Mutant]:
    """Make every mutant of a module, in the order of their places; changes that give the same program are left out."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Everywhere(mutation_operators, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    # Only the statement that holds the change is built and rendered anew: a tenth of the time of the whole module.
    parts = [module.code_for_node(statement) for statement in module.body]
    owner = {id(node): i for i, statement in enumerate(module.body) for node in _below(statement)}
    before = "".join(module.code_for_node(line) for line in module.header)
    after = "".join(module.code_for_node(line) for line in module.footer)
    assert before + "".join(parts) + after == source, "libcst does not give back what it has read"
    spans = functions_of(source)
    seen, count, mutants = {(i, ast.dump(ast.parse(part))) for i, part in enumerate(parts)}, Counter(), []
    for mutation in visitor.mutations:
        i = owner[id(mutation.original_node)]
        swap = ChildReplacementTransformer(mutation.original_node, mutation.mutated_node)
        part = module.code_for_node(module.body[i].visit(swap))
        program = i, ast.dump(ast.parse(part))
        if program in seen:
            continue
        seen.add(program)
        text = before + "".join([*parts[:i], part, *parts[i + 1 :]]) + after
        line, was, becomes = _difference(source, text)
        function = next((name for name, (first, last) in spans.items() if first <= line <= last), "")
        count[function, was, becomes] += 1
        mutants.append(Mutant(function, was, becomes, count[function, was, becomes], line, text))
    return sorted(mutants, key=lambda mutant: mutant.line)


def functions_of(source: str) -> dict[str, tuple[int, int]]:
    """The first and last line of every function of the module and every method of its classes, decorators included."""
    spans, count = {}, Counter()

    def note(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                note(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                name = prefix + node.name
                count[name] += 1
                key = name if count[name] == 1 else f"{name}#{count[name]}"
                spans[key] = (min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno)

    note(ast.parse(source).body, "")
    return spans


def statements_of(source: str) -> set[int]:
    """The first lines of the statements that do something: no import, no docstring, no `def`, no `pass`."""
    kept = set()
    for node in ast.walk(ast.parse(source)):
        docstring = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and type(node.value.value) is str
        )
        silent = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Pass | ast.Break | ast.Continue
        if isinstance(node, ast.stmt) and not docstring and not isinstance(node, silent):
            kept.add(node.lineno)
    return kept


def _below(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _below(child)


def _difference(old: str, new: str) -> tuple[int, str, str]:
    """The first line that differs, and the differing lines of both texts."""
    a, b = old.splitlines(), new.splitlines()
    start = next(i for i in range(len(a)) if a[i : i + 1] != b[i : i + 1])
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    was, becomes = ("\n".join(line.strip() for line in lines[start : len(lines) - end]).strip() for lines in (a, b))
    return start + 1, was, becomes
