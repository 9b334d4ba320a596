"""YAML files to frozen dataclasses: unknown keys and wrong types are errors that say what was meant.

    config = load_config(StageConfig, "sft.yaml", ["optimizer.lr=1e-4", "seed=7"])
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from omnivision.errors import ConfigError

Config = TypeVar("Config")


class _Text(str):
    """The right side of `key=value`: YAML where the key wants that, the bare text where it wants text."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with the numbers of YAML 1.2: 5e8 is one, 010 is ten, 1:30 and dates are text. A key given twice is an error: the last would win."""

    yaml_implicit_resolvers = {first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
                               for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key `{key.value}` stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """Of `INTEGER`."""
        return int(node.value.replace("_", ""), 0 if node.value[1:2] in ("x", "o") else 10)


COMMAND_LINE = "command line"  # where a setting came from, without a file
NULL = ("null", "Null", "NULL", "~")
INTEGER = re.compile(r"[-+]?[0-9][0-9_]*$|0o[0-7]+$|0x[0-9a-fA-F]+$")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$")
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""


for one in (_Loader, _Dumper):
    one.add_implicit_resolver("tag:yaml.org,2002:int", INTEGER, list("-+0123456789"))
    one.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def load_config(cls: type[Config], path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a file, lays `key=value` overrides over it and builds the checked dataclass.

    Args:
        cls: a frozen dataclass; nested dataclasses become nested mappings.
        path: a YAML file; None starts from the defaults.
        overrides: "key=value" words; a dot goes into a nested mapping, the value is YAML.

    Raises:
        ConfigError: no such file, broken YAML, an unknown or missing key, a value of another type.
    """
    return load_tree(cls, read_yaml(path) if path is not None else {}, overrides, str(path) if path is not None else COMMAND_LINE)


def load_tree(cls: type[Config], tree: dict[str, Any], overrides: Sequence[str], source: str) -> Config:
    """The same of keys that are read already; `source` says in errors where they come from."""
    tree = copy.deepcopy(tree)  # stages of a chain share mappings, as YAML's anchors do
    for word in overrides:
        _override(tree, word)
    return _build(cls, tree, source, "")


def dump_config(config: Any) -> str:
    """The YAML text of a config, in the order of its fields; `load_config` reads it back equal."""
    return yaml.dump(_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def schema(cls: type) -> dict[str, Any]:
    """The JSON schema of a config class: keys, types, defaults."""
    hints = typing.get_type_hints(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        entry = _schema_of(hints[field.name])
        if field.default is not dataclasses.MISSING:
            entry["default"] = _plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            entry["default"] = _plain(field.default_factory())
        else:
            required.append(field.name)
        properties[field.name] = entry
    body = {"title": cls.__name__, "type": "object", "properties": properties, "additionalProperties": False}
    return body | ({"required": required} if required else {})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where there is none, or where a key stands twice."""
    path = Path(path)
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("The configuration file cannot be read", str(path), f"{error.strerror}; check the path given to --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("The configuration file is not YAML", str(path), " ".join(str(error).split())) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"The configuration file holds a {type(tree).__name__}, not keys and values", str(path), "Write one `key: value` a line.")
    return tree


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except ValueError as error:  # a number of thousands of digits
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _override(tree: dict[str, Any], word: str) -> None:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"`{word}` is no override", "command line", "Write key=value, for example seed=7.")
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}  # a null or a scalar in the file gives way to the keys named here
        tree = tree[parent]
    tree[last] = _Text(value)


def _build(cls: type, tree: dict[str, Any], source: str, prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"Did you mean `{prefix}{near[0]}`? " if near else ""
            raise ConfigError(f"Unknown key `{prefix}{key}`", source, f"{hint}Known keys: {', '.join(fields)}.")
    required = [name for name, field in fields.items() if name not in tree
                and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING]
    if required:
        raise ConfigError(f"Missing: {', '.join(f'`{prefix}{name}`' for name in required)}", source,
                          f"Give {prefix}{required[0]}=…." if source == COMMAND_LINE else "Add it to the file.")
    hints = typing.get_type_hints(cls)
    values = {key: _coerce(value, hints[key], source, prefix + key) for key, value in tree.items()}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:  # a check of the dataclass' own, in __post_init__
        raise ConfigError(str(error), source) from error


def _coerce(value: Any, kind: Any, source: str, key: str) -> Any:
    if isinstance(value, _Text):
        return _coerce_text(value, kind, source, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return _read(value)
    if origin in (Union, types.UnionType):
        return _coerce_union(value, arguments, kind, source, key)
    if origin is Literal and any(value == one and type(value) is type(one) for one in arguments):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _build(kind, value, source, key + ".")
    if (origin or kind) in (list, tuple) and isinstance(value, (list, tuple)):
        return _coerce_sequence(value, origin or kind, arguments, source, key)
    if (origin or kind) is dict and isinstance(value, dict):
        inner = arguments[1] if arguments else Any
        return {name: _coerce(one, inner, source, f"{key}.{name}") for name, one in value.items()}
    if kind is float and (number := _as_float(value)) is not None:
        return number
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in (types.NoneType, None) and value is None:
        return None
    # type() and not isinstance(): True is an int to Python, not to a reader
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ConfigError(f"`{key}` is {value!r} ({type(value).__name__}) but has to be {_name(kind)}", source, "Correct the value.")


def _read(value: Any) -> Any:
    """What overrides inside of a mapping say, where any kind is right."""
    if isinstance(value, dict):
        return {key: _read(one) for key, one in value.items()}
    if isinstance(value, _Text):
        try:
            return _parse(value)
        except yaml.YAMLError:
            return str(value)
    return value


def _coerce_text(text: _Text, kind: Any, source: str, key: str) -> Any:
    text = _Text(text.strip())  # a script's last word may end with a carriage return
    kinds = {typing.get_origin(one) or one for one in (typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,))}
    if kinds <= {str, Path, dict, types.NoneType} and text[:1] not in ("'", '"', "{") and not (types.NoneType in kinds and text in NULL):
        if not text:
            raise ConfigError(f"`{key}` is empty", source, "Give a value" + (", or null for none." if types.NoneType in kinds else "."))
        return _coerce(str(text), kind, source, key)  # as it is: what stands behind " #" belongs to a name
    try:
        parsed = _parse(text)
    except yaml.YAMLError:
        parsed = str(text)
    try:
        return _coerce(parsed, kind, source, key)
    except ConfigError:
        if parsed == str(text) or dataclasses.is_dataclass(kind):
            raise
        try:
            return _coerce(str(text), kind, source, key)  # name=007 where the key wants text
        except ConfigError:
            pass
        raise


def _coerce_union(value: Any, kinds: tuple, whole: Any, source: str, key: str) -> Any:
    # Exact types first, so that `int | float` keeps 1 an int; a mapping may only be a dataclass or a dict.
    for kind in sorted(kinds, key=lambda kind: kind is not type(value)):
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            return _build(kind, value, source, key + ".")  # its own error is the useful one
        try:
            return _coerce(value, kind, source, key)
        except ConfigError:
            continue
    raise ConfigError(f"`{key}` is {value!r} ({type(value).__name__}) but has to be {_name(whole)}", source, "Correct the value.")


def _coerce_sequence(value: Sequence, origin: type, arguments: tuple, source: str, key: str) -> Any:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"`{key}` has {len(value)} entries but needs {len(arguments)}", source, "Correct the list.")
        inner = arguments
    else:
        inner = [arguments[0] if arguments else Any] * len(value)
    return origin(_coerce(one, kind, source, f"{key}[{index}]") for index, (one, kind) in enumerate(zip(value, inner)))


def _as_float(value: Any) -> float | None:
    if type(value) in (int, float):
        return float(value)
    if not isinstance(value, str):
        return None
    try:  # PyYAML reads 1e-4 as text (YAML 1.1 wants 1.0e-4)
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _name(kind: Any) -> str:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(one) for one in arguments)
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_name(one) for one in arguments)
    if kind is types.NoneType:
        return "null"
    if dataclasses.is_dataclass(kind):
        return f"keys and values of {kind.__name__}"
    return str(kind) if arguments else getattr(kind, "__name__", str(kind))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _schema_of(kind: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    names = {int: "integer", float: "number", str: "string", bool: "boolean", Path: "string", types.NoneType: "null"}
    if kind in names:
        return {"type": names[kind]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of(one) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if dataclasses.is_dataclass(kind):
        return schema(kind)
    if (origin or kind) in (list, tuple):
        return {"type": "array"} | ({"items": _schema_of(arguments[0])} if arguments else {})
    if (origin or kind) is dict:
        return {"type": "object"} | ({"additionalProperties": _schema_of(arguments[1])} if arguments else {})
    return {}
