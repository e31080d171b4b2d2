"""The small mistakes: each replaces the source of one node of a module.

Left out are docstrings, annotations, messages (f-strings, what is raised, printed or logged),
decorators, `assert`, `if TYPE_CHECKING` and `if __name__ == "__main__"`.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
FUNCTIONS = {"sorted": "list", "min": "max", "max": "min", "any": "all", "all": "any"}
UNIMPORTANT = ("encoding", "help", "description", "strict", "stacklevel", "usedforsecurity")
MESSAGES = ("print", "echo", "log", "logger", "logging")  # calls of these, and of their methods
NO_CONTEXT = '__import__("contextlib").nullcontext()'

Way = tuple[tuple[str, int | None], ...]  # fields and positions from the module down to a node
Change = tuple[str, Any, str]  # the mistake, the node it replaces, and the new source
STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)


@dataclass(frozen=True)
class Mutant:
    """One changed place of a module."""

    path: str
    line: int
    mistake: str
    source: str  # the changed module
    function: str  # the innermost function or class, by its full name in the module
    lines: tuple[int, ...] = ()  # of the statement, where a test that could notice passes
    way: Way = ()
    id: str = ""

    def statements(self, original: str) -> tuple[str, str]:
        """The statement before and after, on one line and formatted by `ast`: they survive moves and formatting."""
        return _header(ast.parse(original), self.way), _header(ast.parse(self.source), self.way)


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    content = source.encode()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    results: dict[str, Mutant] = {}
    for node, parents, way in _nodes(tree):
        for mistake, target, text in _changes(node, parents):
            start = starts[target.lineno - 1] + target.col_offset
            end = starts[target.end_lineno - 1] + target.end_col_offset
            changed = (content[:start] + text.encode() + content[end:]).decode()
            statement, lines = _statement([*parents, node], way)
            function = ".".join(
                p.name for p in parents if isinstance(p, ast.FunctionDef | ast.ClassDef)
            )
            mutant = Mutant(path, target.lineno, mistake, changed, function, lines, statement)
            if changed != source:
                results.setdefault(changed, mutant)
    return _numbered(sorted(results.values(), key=lambda mutant: mutant.line))


def hand_written(path: str, source: str, old: str, new: str, name: str) -> Mutant:
    """The mutant that replaces the only `old` in a module; `name` says what it breaks."""
    changed = source.replace(old, new)
    compile(changed, path, "exec")
    first = source[: source.index(old)].count("\n") + 1
    lines = tuple(range(first, first + old.count("\n") + 1))
    return Mutant(path, first, name, changed, "", lines, (), f"planted: {name}")


def _numbered(results: Sequence[Mutant]) -> list[Mutant]:
    """Give each its id: `path:line:mistake`, and a number where that is not unique."""
    count: Counter[str] = Counter()
    numbered = []
    for mutant in results:
        name = f"{mutant.path}:{mutant.line}:{mutant.mistake.replace(' ', '-')}"
        count[name] += 1
        numbered.append(replace(mutant, id=f"{name}:{count[name]}"))
    return numbered


# ── what can go wrong ───────────────────────────────────────────────────────────────────────────


def _changes(node: Any, parents: Sequence[Any]) -> Iterator[Change]:
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Break() | ast.Continue():
            yield "leave out the statement", node, "pass"
        case ast.Raise() if not _is_guard(node, parents[-1]):
            yield "leave out the raise", node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "leave out the assignment", node, "pass"
        case ast.Return(value=ast.expr() as value) if _may_return_none(value, parents):
            yield "return None", value, "None"
        case ast.If() | ast.IfExp():
            yield "never", node.test, "False"
            yield "always", node.test, "True"
        case ast.While() if not isinstance(node.test, ast.Constant):
            yield "never", node.test, "False"
        case ast.With():
            for item in node.items:
                if item.optional_vars is None and "nullcontext" not in ast.unparse(item):
                    yield "leave out the with", item.context_expr, NO_CONTEXT
        case ast.ExceptHandler(type=ast.expr() as kind):
            yield "catch nothing", kind, "()"
        case ast.Slice():
            for bound in ("lower", "upper"):
                if getattr(node, bound) is not None:
                    yield f"leave out the {bound} bound", node, _with(node, **{bound: None})
        case ast.Constant(value=bool()):
            yield "flip the constant", node, str(not node.value)
        case ast.Constant(value=int() as number):
            yield "add one", node, str(number + 1)
        case ast.Constant(value=float() as number):
            yield "double the number", node, str(number * 2 or 1.0)
        case ast.expr():
            yield from _changes_of_expression(node, parents)


def _changes_of_expression(node: Any, parents: Sequence[Any]) -> Iterator[Change]:
    match node:
        case ast.Compare():
            for position, operator in enumerate(node.ops):
                operators = list(node.ops)
                operators[position] = COMPARISONS[type(operator)]()
                yield "flip the comparison", node, f"({_with(node, ops=operators)})"
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "swap and and or", node, f"({_with(node, op=other)})"
            for position in range(len(node.values)):
                values = _without(node.values, position)
                shorter = _with(node, values=values) if len(values) > 1 else ast.unparse(values[0])
                yield "leave out a condition", node, f"({shorter})"
        case ast.UnaryOp(op=ast.Not()):
            yield "leave out the not", node, f"({ast.unparse(node.operand)})"
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _joins_texts(node):
            yield "change the operator", node, f"({_with(node, op=ARITHMETIC[type(node.op)]())})"
        case ast.Call():
            for position, keyword in enumerate(node.keywords):
                if keyword.arg and keyword.arg not in UNIMPORTANT:
                    yield (
                        "leave out an argument",
                        node,
                        _with(node, keywords=_without(node.keywords, position)),
                    )
            if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
                yield "call another function", node.func, FUNCTIONS[node.func.id]
        case ast.Tuple() | ast.List() | ast.Set() if _is_collection(node, parents):
            for position, element in enumerate(node.elts):
                if isinstance(element, ast.Constant | ast.Starred | ast.Attribute):
                    shorter = _with(node, elts=_without(node.elts, position))
                    yield "leave out an element", node, shorter
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for number, generator in enumerate(node.generators):
                for position in range(len(generator.ifs)):
                    generators = list(node.generators)
                    generators[number] = copy.copy(generator)
                    generators[number].ifs = _without(generator.ifs, position)
                    yield "leave out the filter", node, _with(node, generators=generators)


def _with(node: Any, **fields: Any) -> str:
    """The source of a node with other fields."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return ast.unparse(changed)


def _without(values: Sequence[Any], position: int) -> list[Any]:
    return [*values[:position], *values[position + 1 :]]


def _is_guard(node: ast.Raise, parent: ast.AST) -> bool:
    """Is it all that an `if` does? Then its condition that never holds is the same mutant."""
    return isinstance(parent, ast.If) and parent.body == [node] and not parent.orelse


def _may_return_none(value: ast.expr, parents: Sequence[Any]) -> bool:
    functions = [parent for parent in parents if isinstance(parent, ast.FunctionDef | ast.Lambda)]
    if not isinstance(functions[-1], ast.FunctionDef) or functions[-1].returns is None:
        return False
    annotation = ast.unparse(functions[-1].returns)
    return "None" in annotation and annotation != "None" and ast.unparse(value) != "None"


def _joins_texts(node: ast.BinOp) -> bool:
    texts = ast.JoinedStr | ast.List | ast.Tuple
    sides = (node.left, node.right)
    return any(
        isinstance(side, texts) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in sides
    )


def _is_collection(node: Any, parents: Sequence[Any]) -> bool:
    """Is it a row of like things, rather than a few values that are unpacked?"""
    if len(node.elts) < 2 or isinstance(getattr(node, "ctx", None), ast.Store):
        return False
    is_index = isinstance(parents[-1], ast.Subscript) and parents[-1].slice is node
    return not is_index


# ── the way through a module ────────────────────────────────────────────────────────────────────


def _nodes(tree: ast.Module) -> Iterator[tuple[Any, list[Any], Way]]:
    """The nodes that may change, with their parents and the way to each."""
    waiting: list[tuple[Any, list[Any], Way]] = [(tree, [], ())]
    while waiting:
        node, parents, way = waiting.pop()
        if _is_left_out(node):
            continue
        if parents:
            yield node, parents, way
        if isinstance(node, ast.Raise):
            continue
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "type_params", "decorator_list"):
                continue
            children = value if isinstance(value, list) else [value]
            for position, child in enumerate(children):
                if isinstance(child, ast.AST):
                    step = (field, position if isinstance(value, list) else None)
                    waiting.append((child, [*parents, node], (*way, step)))


def _is_left_out(node: Any) -> bool:
    match node:
        case ast.JoinedStr() | ast.Assert():
            return True
        case ast.If():
            return ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        case ast.keyword():
            return node.arg in UNIMPORTANT
        case ast.Call(func=function) | ast.Expr(value=ast.Call(func=function)):
            return ast.unparse(function).split(".")[0] in MESSAGES
    return False


def _statement(nodes: Sequence[Any], way: Way) -> tuple[Way, tuple[int, ...]]:
    """The innermost statement around a node: the way to it, and its lines without those of its block."""
    depth = max(index for index, node in enumerate(nodes) if isinstance(node, STATEMENTS))
    node = nodes[depth]
    body = getattr(node, "body", None)
    first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
    last = body[0].lineno - 1 if body else node.end_lineno
    return way[:depth], tuple(range(first, max(first, last) + 1))


def _header(tree: ast.Module, way: Way) -> str:
    """A statement without its block, on one line."""
    node: Any = tree
    for field, position in way:
        value = getattr(node, field)
        node = value if position is None else value[position]
    if isinstance(getattr(node, "body", None), list):
        node = copy.copy(node)
        node.body = [ast.Pass()]
        for field in ("orelse", "finalbody", "handlers", "decorator_list"):
            if hasattr(node, field):
                setattr(node, field, [])
    return " ".join(ast.unparse(node).removesuffix("pass").split())
