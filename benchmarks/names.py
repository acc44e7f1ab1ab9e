"""Reads lists of flags: names of systems, which have commas in them, and levels of concurrency."""

from collections.abc import Iterable, Sequence

from serving.errors import SettingError


def split_names(text: str) -> tuple[str, ...]:
    """Those that semicolons separate."""
    return tuple(name.strip() for name in text.split(";") if name.strip())


def split_levels(text: str) -> tuple[int, ...]:
    """Those that commas separate."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def check_names(flag: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raises SettingError for a name that is none of the `known`."""
    known = tuple(known)
    if unknown := [name for name in names if name not in known]:
        raise SettingError(f"{flag}: there is no {unknown[0]!r}, only {'; '.join(known)}")
