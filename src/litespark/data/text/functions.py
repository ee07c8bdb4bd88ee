"""Functions of Python sources as examples: what each does, its signature, and its body; text that every machine has.

The prompt is the first paragraph of the docstring and the signature, as comments; the completion is the function
without its docstring. A worse answer is the function behind it in the file, or the function with a fault of syntax.
"""

import ast
import hashlib
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MOST_CHARACTERS = 2000


@dataclass(frozen=True)
class Function:
    name: str
    docstring: str
    """Its first paragraph."""
    signature: str
    """From `def` to the colon, in one line."""
    code: str
    """Signature and body, not indented, without decorators and docstring."""

    @property
    def prompt(self) -> str:
        comments = [*textwrap.wrap(self.docstring, 100), self.signature.removesuffix(":")]
        return "".join(f"# {line}\n" for line in comments)


def functions_in(source: str) -> list[Function]:
    """The functions of a source that have a docstring and a body behind it, in its order; none where it is no Python.

    Left out are those of more than two thousand characters.
    """
    if (tree := _parsed(source)) is None:
        return []
    lines = source.split("\n")
    made = (_function(node, lines) for node in list(_nodes(tree)))
    return [function for function in made if function is not None]


def records_in(source: str, kind: str) -> Iterator[dict[str, Any]]:
    """The functions of a source as records of the `data.format`."""
    functions = functions_in(source)
    for number, function in enumerate(functions):
        record: dict[str, Any] = {"prompt": function.prompt}
        if kind == "prompts":
            yield record | {"signature": function.signature, "name": function.name, "reference": function.code}
            continue
        if kind == "conversations":
            yield record | {"completion": function.code}
            continue
        other = functions[(number + 1) % len(functions)].code
        drawn = hashlib.blake2b(function.code.encode(), digest_size=1).digest()[0]
        worse = other if drawn % 2 and other != function.code else _broken(function.code, drawn // 2)
        if worse is None:
            continue
        if kind == "pairs":
            yield record | {"chosen": function.code, "rejected": worse}
        else:
            yield record | {"completion": function.code, "label": True}
            yield record | {"completion": worse, "label": False}


def _nodes(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions below a node, outer ones first; expressions, which are most of a tree, hold none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _nodes(node)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Function | None:
    docstring = ast.get_docstring(node)
    if not docstring or len(node.body) < 2 or node.body[0].lineno == node.lineno:
        return None
    first, end = node.body[0], node.end_lineno
    assert first.end_lineno is not None
    # another statement may stand in the docstring's last line
    if node.body[1].lineno == first.end_lineno:
        return None
    code = (
        textwrap.dedent("\n".join([*lines[node.lineno - 1 : first.lineno - 1], *lines[first.end_lineno : end]])) + "\n"
    )
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    if len(code) > _MOST_CHARACTERS or not paragraph or _fails(code):
        return None
    node.body, node.decorator_list = [ast.Pass()], []
    signature = ast.unparse(node).strip().split("\n")[0]
    return Function(node.name, paragraph, signature, code)


def _broken(code: str, drawn: int) -> str | None:
    """The code with one of its marks taken out, so that it does not parse; None: none of them is needed."""
    places = [place for place, letter in enumerate(code) if letter in "()[]:"]
    for turn in range(len(places)):
        place = places[(drawn + turn) % len(places)]
        if _fails(worse := code[:place] + code[place + 1 :]):
            return worse
    return None


def _fails(code: str) -> bool:
    return _parsed(code) is None


def _parsed(code: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in what is read
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError):
            return None
