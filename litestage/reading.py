"""What people write and earlier runs left: text, YAML, JSON, JSON lines. What does not read is one sentence.

YAML guesses types: ``12e4567`` is infinity to it, ``010`` is 8 and ``on`` is true. Where the reader expects a text or a
number, it is told so, and gets what was written.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import yaml

from litestage.errors import LiteStageError

_MOST_NODES = 100_000  # with every alias written out: a few lines of YAML can stand for gigabytes
_YAML = "tag:yaml.org,2002:"
_TEXT, _NOTHING, _MERGE = f"{_YAML}str", f"{_YAML}null", f"{_YAML}merge"
_SCALARS: set[Any] = {str, int, float, bool, type(None)}
_GUESSED = {f"{_YAML}{kind}" for kind in ("bool", "float", "int", "timestamp", "value")}


class _Loader(yaml.SafeLoader):
    """Safe YAML whose numbers are those of YAML 1.2: 010 is ten, 1e-3 a thousandth, and 1:30 a text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_YAML}int", f"{_YAML}float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(f"{_YAML}int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_YAML}float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    list("-+0123456789."),
)
_Loader.add_constructor(f"{_YAML}int", lambda loader, node: int(loader.construct_scalar(node)))


def read_text(path: str | Path) -> str:
    """A file's text, without a byte-order mark.

    Raises:
        LiteStageError: no such file, a folder, one that cannot be opened, or one that is not UTF-8.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise LiteStageError(f"{str(path)!r} is a folder; name a file in it.")
    if not os.path.exists(path):  # unlike Path's, neither complains of a name that no file can have
        raise LiteStageError(f"There is no file {str(path)!r}; correct the path.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LiteStageError(f"{str(path)!r} cannot be read ({error.strerror}); see to it, or name another.") from None
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        row = 1 if wide else raw.count(b"\n", 0, error.start) + 1
        if b"\0" in raw and not wide:  # parquet, an archive, a picture
            raise LiteStageError(f"{path} holds no text but binary data; write it out as UTF-8 text.") from None
        encoding = "UTF-16" if wide else "another encoding"
        raise LiteStageError(
            f"{path}, row {row} is not UTF-8 but {encoding}; save the file as UTF-8 (iconv -t UTF-8 -f "
            f"{'UTF-16' if wide else 'LATIN1, or whatever it is in'})."
        ) from None


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) for every line that is not blank. Only ``\\n`` ends one: JSON may hold the other signs."""
    return ((at, line) for at, line in enumerate(read_text(path).split("\n"), start=1) if line.strip())


def read_json(path: str | Path) -> Any:
    """A JSON file's content. Raises LiteStageError as :func:`read_text` and :func:`parse_json`."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise LiteStageError(f"{path} is not JSON ({error}); run the command that wrote it again.") from None


def parse_json(text: str) -> Any:
    """JSON as its standard has it.

    Raises:
        ValueError: text that is not JSON, and what Python takes for it: NaN, infinities, half a surrogate pair, a key
            that stands twice, and nesting beyond Python's own.
    """
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no character") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _refused(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not a number")


def _finite(written: str) -> float:
    number = float(written)
    return number if math.isfinite(number) else _refused(written)


def read_yaml(path: str | Path, expected: Any = Any) -> Any:
    """A YAML file's content; ``expected`` as in :func:`parse_yaml`.

    Raises:
        LiteStageError: as :func:`read_text`, or text that is not YAML.
    """
    text = read_text(path)
    try:
        return parse_yaml(text, expected)
    except ValueError as error:
        raise LiteStageError(f"{path} is not YAML ({error}); correct the file.") from None


def parse_yaml(text: str, expected: Any = Any) -> Any:
    """YAML as plain data, a number, truth value or date given as the text it was written as where that is expected.

    Args:
        expected: a type: a dataclass, a TypedDict, ``dict``, ``list`` or ``tuple`` of such, ``str``, ``int``,
            ``float``, ``bool`` or a union. Nothing is checked; a scalar of the last kinds stays as written.

    Raises:
        ValueError: text that is not YAML, a key that stands twice, or aliases that stand for too much.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Marking().mark(node, expected)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        raise ValueError(f"{problem}, line {mark.line + 1}" if mark else problem) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Marking:
    """Marks scalars as text where one is expected, and counts what it sees."""

    def __init__(self) -> None:
        self._seen = 0

    def mark(self, node: yaml.Node, expected: Any) -> None:
        self._seen += 1
        if self._seen > _MOST_NODES:
            raise yaml.MarkedYAMLError(problem="its aliases stand for too much", problem_mark=node.start_mark)
        kinds = kinds_of(expected)
        if not isinstance(node, yaml.ScalarNode) and set(kinds) <= _SCALARS:
            found = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
            problem = f"a {found} stands where one value is meant"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, expected)
        elif isinstance(node, yaml.SequenceNode):
            inside = next((get_args(kind)[0] for kind in kinds if get_origin(kind) in (list, tuple)), Any)
            for child in node.value:
                self.mark(child, inside)
        else:
            _as_text(node, kinds)

    def _mapping(self, node: yaml.MappingNode, expected: Any) -> None:
        names: set[tuple[str, Any]] = set()
        for key, value in node.value:
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    self.mark(merged, expected)
                continue
            self.mark(key, str if named(expected) else Any)
            if key.tag == _NOTHING and named(expected):
                key.tag = _TEXT
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in names:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                names.add((key.tag, key.value))
                self.mark(value, inside_of(expected, str(key.value)))
            else:
                self.mark(value, Any)


def _as_text(node: yaml.ScalarNode, kinds: tuple[Any, ...]) -> None:
    if not is_text(node.value):
        raise yaml.MarkedYAMLError(problem="half a surrogate pair is no character", problem_mark=node.start_mark)
    members = {get_args(kind)[0] for kind in kinds if get_origin(kind) in (list, tuple)}  # one where a list is meant
    if node.tag in _GUESSED and _SCALARS & {*kinds, *members} - {type(None)}:
        node.tag = _TEXT


def kinds_of(expected: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type there is."""
    return get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)


def named(expected: Any) -> bool:
    """Whether a mapping is expected whose keys are names."""
    return any(is_dataclass(kind) or is_typeddict(kind) or get_origin(kind) is dict for kind in kinds_of(expected))


def inside_of(expected: Any, key: str) -> Any:
    """What is expected under a mapping's key; anything where nothing is known."""
    for kind in kinds_of(expected):
        if is_dataclass(kind) or is_typeddict(kind):
            return get_type_hints(kind).get(key, Any)
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return Any


def is_text(written: str) -> bool:
    """Whether it is all characters: half a surrogate pair is none, nor is a byte of an argument that is not UTF-8."""
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(value: Any, what: str, least: int = 0) -> int:
    """A whole number, as it was written or as YAML read it. Raises LiteStageError for anything else, or a lower one."""
    try:
        number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or number < least:
        raise LiteStageError(f"{what} is {value!r:.80}; give a whole number, at least {least}.")
    return number


def given_mapping(value: Any, where: str | Path) -> Mapping[str, Any]:
    """``value`` if it is a mapping. Raises LiteStageError for a file that is empty or holds something else."""
    if not isinstance(value, Mapping):
        found = "is empty" if value is None else f"holds a {_KINDS.get(type(value), 'text')}"
        raise LiteStageError(f"{where} {found}; it holds 'key: value' lines.")
    return value


_KINDS: dict[type, str] = {list: "list", int: "number", float: "number", bool: "truth value"}
