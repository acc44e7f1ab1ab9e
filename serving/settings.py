"""Settings as one typed, frozen object per program: flag, then environment variable, then default."""

import argparse
import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from serving.errors import SettingError

Settings = TypeVar("Settings")

_MOST_WHOLE = 2**31 - 1
_MOST = 1_000_000  # seconds, whose milliseconds are such a number


def setting(
    default: Any,
    help: str,
    *,
    parse: Callable[[str], Any] | None = None,
    positional: bool = False,
    secret: bool = False,
) -> Any:
    """A dataclass field that is also a flag; without `parse` the type of the default reads the text.

    A `secret` is not shown when the settings are printed.
    """
    metadata = {"help": help, "parse": parse or _parser_of(default), "positional": positional}
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def parse_bool(text: str) -> bool:
    """Read true/false, on/off, yes/no or 1/0."""
    if text.lower() in ("true", "on", "yes", "1"):
        return True
    if text.lower() in ("false", "off", "no", "0"):
        return False
    raise ValueError("use on or off")


def at_least(least: float, kind: Callable[[str], Any] = int, most: float | None = None) -> Callable[[str], Any]:
    """A parser of numbers that refuses what is below `least`, or beyond what the libraries below take."""
    most = most or (_MOST_WHOLE if kind is int else _MOST)

    def parse(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise ValueError(f"use {least} or more")
        if value > most:
            raise ValueError(f"use {most} or less")
        return value

    return parse


def one_of(*values: str) -> Callable[[str], str]:
    """A parser that takes these words only."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"use {', '.join(values[:-1])} or {values[-1]}")
        return text

    return parse


def _parser_of(default: Any) -> Callable[[str], Any]:
    if isinstance(default, bool):
        return parse_bool
    return type(default) if isinstance(default, int | float) else str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message} (see {self.prog} --help)")


def load_settings(
    cls: type[Settings],
    prog: str,
    prefix: str,
    argv: Sequence[str],
    environ: Mapping[str, str],
    parent: argparse.ArgumentParser | None = None,
) -> Settings:
    """Read `cls` from `argv` and `environ`; raises SettingError naming the flag or variable and the fix.

    Flags of `parent` that `cls` does not have are known, but only at their default: a flag must not be ignored.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    positional = [field.name.upper() for field in fields if field.metadata["positional"]]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, *positional, "[--FLAG VALUE ...]"]),
        description=inspect.getdoc(cls),
        epilog=f"Every --flag can also be set as an environment variable: {prefix}FLAG. A flag wins.",
        parents=[_hide(parent)] if parent else [],
        conflict_handler="resolve",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in fields:
        _add_flag(parser, field, prefix)
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(_without_values(unknown))}")
    given = vars(known)
    names = {field.name for field in fields}
    if parent:
        _refuse_ignored({k: v for k, v in given.items() if k not in names}, parent)
    return cls(**{field.name: _value(field, given[field.name], prefix, environ) for field in fields})


def _without_values(arguments: Sequence[str]) -> Sequence[str]:
    """Only the flags, if there are any: what follows a mistyped one may be a secret."""
    return [argument.partition("=")[0] for argument in arguments if argument.startswith("-")] or arguments


def _hide(parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same flags, left out of --help: they have no effect. A copy: to resolve a conflict is to change it."""
    hidden = copy.deepcopy(parent)
    for action in hidden._actions:
        action.help = argparse.SUPPRESS
    return hidden


def _add_flag(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]", prefix: str) -> None:
    default = show_default(field.default)
    help_text = (field.metadata["help"] + (f" (default: {default})" if default else "")).replace("%", "%%")
    if field.metadata["positional"]:
        parser.add_argument(field.name, metavar=field.name.upper(), help=help_text)
    else:
        parser.add_argument(f"--{field.name}", default=None, metavar="VALUE", help=help_text)


def show_default(default: Any) -> str:
    """A default as a person would write it on the command line; empty when there is nothing to show."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        texts = list(map(str, default))
        return ("; " if any("," in text for text in texts) else ",").join(texts)
    return "" if default is None else str(default)


def _value(field: "dataclasses.Field[Any]", given: str | None, prefix: str, environ: Mapping[str, str]) -> Any:
    variable = prefix + field.name.upper()
    source, text = (f"--{field.name}", given) if given is not None else (variable, environ.get(variable))
    if text is None:
        return field.default
    try:
        return field.metadata["parse"](text)
    except (ValueError, TypeError) as error:
        raise SettingError(f"{source}: {text!r} cannot be used: {error}") from None


def _refuse_ignored(given: Mapping[str, Any], parent: argparse.ArgumentParser) -> None:
    for name, value in given.items():
        if value != parent.get_default(name):
            raise SettingError(f"--{name}: this flag of KServe has no effect here; leave it out")
