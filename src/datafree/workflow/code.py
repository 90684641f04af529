"""The code of a job: which files of this package it consists of, their hashes, and whether a process loaded the same files.

The code of a job is its stage module, the modules of the methods that it looked up in registries (``datafree.registry``), and all modules
of this package that these import, directly or indirectly. Comments, docstrings and blank lines do not count.

A run plans with the files as they are when it starts (``Source``). A job notes the bytes of every module when Python loads it, so that code
that is edited in between cannot be recorded as the code of the run. This module imports no PyTorch: Snakemake imports it at every start.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.machinery
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

PACKAGE = Path(__file__).parents[1]
# Modules that do not count, because they cannot change the outputs of a stage: configuration is compared by value.
NOT_COUNTED = ("datafree.config", "datafree.errors", "datafree.progress", "datafree.workflow", "datafree.cli", "datafree.registry")
BESIDE_MODULES = (".html", ".css", ".js")  # suffixes of templates and styles, which count as part of the modules in the same folder

_loaded: dict[str, bytes] = {}  # the source of each module of this package that this process loaded, by path in the package


class SourceFile:
    """One file of the package: SHA-256 of its bytes and of what counts of them, both in hexadecimal, and the modules that it imports.

    A file that is given by its ``content`` is parsed when ``counted`` or ``imports`` is first read. One that is not valid Python counts
    with all its bytes and imports nothing: jobs that load it fail.
    """

    def __init__(self, sha256: str, counted: str = "", imports: tuple[str, ...] = (), content: bytes | None = None) -> None:
        self.sha256 = sha256
        self._parsed, self._content = (counted, imports), content

    @property
    def counted(self) -> str:
        return self._parse()[0]

    @property
    def imports(self) -> tuple[str, ...]:
        return self._parse()[1]

    def _parse(self) -> tuple[str, tuple[str, ...]]:
        if self._content is not None:
            try:
                text = self._content.decode()
                tree = ast.parse(text)
                self._parsed = hashlib.sha256(without_comments(text, tree).encode()).hexdigest(), _imports(tree)
            except (ValueError, SyntaxError, tokenize.TokenError):
                self._parsed = self.sha256, ()
            self._content = None
        return self._parsed


class Source:
    """The files of the package, by path relative to it, at one moment."""

    def __init__(self, files: Mapping[str, SourceFile]) -> None:
        self.files = dict(files)
        self._hashes: dict[tuple[str, ...], str] = {}

    @classmethod
    def read(cls, known: Source | None = None, package: Path = PACKAGE) -> Source:
        """The files as they are now; files with the same bytes as in ``known`` are not parsed again."""
        earlier = {file.sha256: file for file in known.files.values()} if known else {}
        files = {}
        for path in sorted(package.rglob("*")):
            if path.suffix in (".py", *BESIDE_MODULES) and path.is_file():
                content = path.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                name = path.relative_to(package).as_posix()
                files[name] = earlier.get(digest) or _source_file(name, content)
        return cls(files)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Source:
        """Inverse of ``as_tree``."""
        return cls({path: SourceFile(sha256, counted, tuple(imports)) for path, (sha256, counted, imports) in tree.items()})

    def as_tree(self) -> dict[str, Any]:
        """As plain lists, for JSON."""
        return {path: [file.sha256, file.counted, list(file.imports)] for path, file in self.files.items()}

    def files_of(self, modules: Iterable[str]) -> list[str]:
        """Paths of these modules and of all that they import, sorted; modules that do not exist are left out."""
        seen: set[str] = set()
        waiting = list(modules)
        while waiting:
            name = waiting.pop()
            path = self._path(name)
            if path is None or path in seen:
                continue
            seen.add(path)
            folder = path.rpartition("/")[0]
            seen.update(other for other in self.files if other.endswith(BESIDE_MODULES) and other.rpartition("/")[0] == folder)
            waiting.extend(self.files[path].imports)
            parts = name.split(".")
            waiting.extend(".".join(parts[:end]) for end in range(2, len(parts)))
        return sorted(seen)

    def hash_of(self, modules: Iterable[str]) -> str:
        """A hash, 16 hexadecimal digits, of these modules and of all that they import."""
        names = tuple(modules)
        if names not in self._hashes:
            text = "".join(f"{path} {self.files[path].counted}\n" for path in self.files_of(names))
            self._hashes[names] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._hashes[names]

    def hash_of_all(self) -> str:
        """A hash, 16 hexadecimal digits, of all files that can be part of a job's code."""
        text = "".join(f"{path} {file.counted}\n" for path, file in sorted(self.files.items()) if self._path(_module(path)) == path)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def first_change(self, modules: Iterable[str], package: Path = PACKAGE) -> str:
        """The first file of the code of ``modules`` that differs from the one that this process loaded; empty if there is none.

        Modules that it has not loaded do not matter. Templates, and modules loaded before ``note_loaded_modules``, are read from the disk.
        """
        for path in self.files_of(modules):
            if path not in _loaded and _module(path) not in sys.modules and path.endswith(".py"):
                continue
            content = _loaded[path] if path in _loaded else (package / path).read_bytes() if (package / path).is_file() else b""
            loaded = _source_file(path, content)
            if loaded.sha256 != self.files[path].sha256 and loaded.counted != self.files[path].counted:
                return path
        return ""

    def _path(self, module: str) -> str | None:
        if not module.startswith("datafree.") or any(module == name or module.startswith(f"{name}.") for name in NOT_COUNTED):
            return None
        base = module.removeprefix("datafree.").replace(".", "/")
        return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in self.files), None)


def _module(path: str) -> str:
    """The name of the module in a file of the package."""
    return "datafree." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def note_loaded_modules(package: Path = PACKAGE) -> None:
    """From now on, note the source of every module of this package that Python loads, for ``Source.first_change``.

    Such modules are compiled from their source, never from cached bytecode, which Python compares by time and size alone.
    """
    sys.meta_path.insert(0, _Finder(package))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, package: Path) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("datafree."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self.package)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, package: Path) -> None:
        super().__init__(fullname, path)
        self.package = package

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        if Path(self.path).is_relative_to(self.package):
            _loaded[Path(self.path).relative_to(self.package).as_posix()] = content
        return self.source_to_code(content, self.path)


def _source_file(path: str, content: bytes) -> SourceFile:
    digest = hashlib.sha256(content).hexdigest()
    return SourceFile(digest, content=content) if path.endswith(".py") else SourceFile(digest, digest)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a module, at any depth, but not the expressions in them, which are ten times as many.

    Blocks for type checkers alone are left out.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            if block == "body" and isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                continue
            inner = getattr(node, block, ())
            waiting.extend(inner if isinstance(inner, list) else ())


def _imports(tree: ast.Module) -> tuple[str, ...]:
    """Modules of this package that a module imports, anywhere but for type checkers; a name from a module may be a module itself."""
    names: list[str] = []
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(sorted({name for name in names if name.startswith("datafree.")}))


def without_comments(source: str, tree: ast.Module | None = None) -> str:
    """Python source with comments, docstrings, blank lines and trailing spaces removed; other strings stay as they are.

    ``tree``: the syntax tree of the source, if it is known.
    """
    lines = source.encode().split(b"\n")  # as the parser: columns in bytes, lines end at newlines only
    cuts: list[tuple[int, int, int, int]] = []  # first line, column, last line, column
    unfinished: set[int] = set()  # lines that end inside a string
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, start), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            line = lines[first - 1]
            cuts.append((first, len(line.decode()[:start].encode()), first, len(line)))
        unfinished.update(range(first, last))
    for node in _statements(tree or ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            text = node.body[0]
            assert text.end_lineno is not None and text.end_col_offset is not None
            cuts.append((text.lineno, text.col_offset, text.end_lineno, text.end_col_offset))
            unfinished.difference_update(range(text.lineno, text.end_lineno))
    for first, start, last, end in sorted(cuts, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]] + [b""] * (last - first)
    kept = [
        line if number in unfinished else line.rstrip()
        for number, line in enumerate(lines, start=1)
        if line.strip() or number in unfinished
    ]
    return b"\n".join(kept).decode()
