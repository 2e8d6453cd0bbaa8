"""Check the syntax tree of a reward program, for clear messages; `Sandbox` is what protects."""

from __future__ import annotations

import ast

MODULES = ("numpy", "math")
"""What a program may import."""
MAX_BYTES = 64 * 1024
"""Longest source."""
FORBIDDEN_NAMES = frozenset(
    (
        *("eval", "exec", "compile", "open", "input", "breakpoint", "globals", "locals", "vars"),
        *("getattr", "setattr", "delattr", "dir", "help", "memoryview", "object", "type", "super"),
        *("exit", "quit", "print", "classmethod", "staticmethod", "property"),
    )
)
FORBIDDEN_ATTRIBUTES = frozenset(
    (
        # of numpy: files, memory by address, code by name, other processes
        *("load", "save", "savez", "savez_compressed", "loadtxt", "savetxt", "genfromtxt"),
        *("fromfile", "tofile", "memmap", "DataSource", "fromregex", "dump", "dumps"),
        *("ctypes", "ctypeslib", "lib", "f2py", "distutils", "testing", "test", "core"),
        *("setflags", "data", "frombuffer", "random", "show_config", "info", "source", "lookfor"),
        # of frames, generators and coroutines
        *("gi_frame", "gi_code", "cr_frame", "ag_frame", "f_back", "f_globals", "f_builtins"),
        *("tb_frame", "tb_next", "mro"),
        # of texts: formats reach attributes
        *("format", "format_map"),
    )
)
_REFUSED_NODES = {
    ast.AsyncFunctionDef: "an async function",
    ast.Await: "await",
    ast.ClassDef: "a class",
    ast.Global: "a global statement",
    ast.Nonlocal: "a nonlocal statement",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.While: "a while loop",
    ast.With: "a with statement",
    ast.AsyncWith: "a with statement",
    ast.Try: "a try statement",
    ast.TryStar: "a try statement",
    ast.Delete: "a del statement",
}


class ProgramError(ValueError):
    """A reward program that cannot be used; the message says why."""


def lint(source: str) -> ast.Module:
    """Parse a source and check that it stays within what a reward needs.

    Refused are other imports than `MODULES`, names and attributes that reach beyond the arguments,
    and statements that a batched numpy function does not need, such as `while` and `try`. This
    gives a language model messages to work with. It is no protection: the sandbox is.

    Returns:
        The tree.

    Raises:
        ProgramError: for the first thing refused, with its line.

    >>> lint("import os")
    Traceback (most recent call last):
    ...
    firstlight.intrinsic.design.lint.ProgramError: line 1: imports os, expected only numpy and math
    """
    if len(source.encode("utf-8", "replace")) > MAX_BYTES:
        raise ProgramError(f"the source has more than {MAX_BYTES:,} bytes")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        what = error.msg if isinstance(error, SyntaxError) else str(error) or "too deeply nested"
        raise ProgramError(f"{where}not valid Python: {what}") from error
    for node in ast.walk(tree):
        if why := _refusal(node):
            line = node.lineno if isinstance(node, (ast.stmt, ast.expr)) else None
            raise ProgramError(f"line {line}: {why}" if line else why)
    return tree


def _refusal(node: ast.AST) -> str | None:
    """Return why a node is refused, or None."""
    if isinstance(node, ast.Import):
        wrong = [alias.name for alias in node.names if alias.name not in MODULES]
        return f"imports {wrong[0]}, expected only numpy and math" if wrong else None
    if isinstance(node, ast.ImportFrom):
        if node.module not in MODULES or node.level:
            return f"imports from {node.module}, expected only numpy and math"
        hidden = [a.name for a in node.names if a.name in FORBIDDEN_ATTRIBUTES or a.name == "*"]
        return f"imports {hidden[0]} from {node.module}, which is refused" if hidden else None
    if isinstance(node, ast.Attribute):
        if node.attr.startswith("_") or node.attr in FORBIDDEN_ATTRIBUTES:
            return f"the attribute {node.attr} is refused"
        return None
    if isinstance(node, ast.Name):
        if node.id.startswith("__") or node.id in FORBIDDEN_NAMES:
            return f"the name {node.id} is refused"
        return None
    what = _REFUSED_NODES.get(type(node))
    return None if what is None else f"{what} is refused"
