"""What is wrong with a recipe, in one line: the setting, its value and what is valid."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..errors import suggest
from .recipe import KINDS, Recipe
from .section import Section


def error_line(error: ValidationError) -> str:
    """Return the first error of a recipe as one line: its path, its value and what is valid."""
    first = error.errors(include_url=False)[0]
    section, keys, field = _locate(first["loc"])
    path, value, context = ".".join(keys), first["input"], first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            return _unknown_key(section, keys)
        case "value_error":
            return f"{path}: {context['error']}" if path else str(context["error"])
        case "union_tag_invalid":
            names = [name for name in KINDS[path] if name != "custom"]
            tag = str(context["tag"])
            return f'{path}.name = "{tag}": choose one of {", ".join(names)}{suggest(tag, names)}'
    if path in KINDS and not isinstance(value, Mapping):
        return f"{path} = {_quoted(value)}: is a section; did you mean {path}.name={value}?"
    if field is None:
        return f"{path} = {_quoted(value)}: must be a table of settings"
    valid = _valid(field.annotation, field.metadata)
    return f"{path} = {_quoted(value)}: must be {valid}{_hint(field, path, value)}"


def _unknown_key(section: type[Section], keys: list[str]) -> str:
    path, kind = ".".join(keys), keys[0]
    owners = [name for name, k in KINDS.get(kind, {}).items() if keys[-1] in k.model_fields]
    if owners:
        return f"{path} is a setting of {kind}.name = {' or '.join(owners)}, not of this {kind}"
    place, names = path.rpartition(".")[0] or "the top level", list(section.model_fields)
    return f"unknown key {path}{suggest(keys[-1], names)} (valid in {place}: {', '.join(names)})"


def _hint(field: FieldInfo, path: str, value: Any) -> str:
    """How to write a subsection, or the word that was probably meant."""
    if inner := _section_of(field):
        hint = f"; set {path}.{next(iter(inner.model_fields))} and so on"
        optional = type(None) in get_args(field.annotation)
        return hint + (f", or {path}={{}} for the defaults" if optional else "")
    return suggest(value, _choices(field.annotation)) if isinstance(value, str) else ""


def _locate(loc: tuple[int | str, ...]) -> tuple[type[Section], list[str], FieldInfo | None]:
    """The section of an error, its path without the union's tag, and its field if known."""
    section: type[Section] = Recipe
    keys: list[str] = []
    field: FieldInfo | None = None
    parts = iter(loc)
    for part in parts:
        if isinstance(part, int) or (field and not _section_of(field) and str(part) != keys[-1]):
            continue  # a place within a list, or pydantic's name for an arm of a union
        if field is not None and (inner := _section_of(field)):
            section = inner
        keys.append(str(part))
        field = section.model_fields.get(str(part))
        if len(keys) == 1 and keys[0] in KINDS:
            tag = next(parts, None)
            if tag is not None:
                section, field = KINDS[keys[0]][str(tag)], None
    return section, keys, field


def _section_of(field: FieldInfo) -> type[Section] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SIGNS = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}


def _valid(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field accepts, in words: `a number > 0 and < 1, or "none" for off`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [m for extra in args[1:] for m in getattr(extra, "metadata", [extra])]
        return _valid(args[0], [*limits, *metadata])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args)) if len(args) > 1 else f'"{args[0]}"'
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} values, "
        return f"a list of {count}each {_valid(args[0])}"
    if type(None) in args:
        rest = " or ".join(_valid(arg, metadata) for arg in args if arg is not type(None))
        return f'{rest}, or "none" for off'
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a table of " + ", ".join(annotation.model_fields)
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in metadata
        for kind, sign in _SIGNS.items()
        if isinstance(bound, kind)
        for name in [kind.__name__.lower()]
    ]
    return " ".join([_WORDS.get(annotation, str(annotation)), " and ".join(bounds)]).strip()
