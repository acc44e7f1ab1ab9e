"""Reads lists of flags: names of systems, which have commas in them, and levels of concurrency."""

from collections.abc import Iterable, Sequence

from serving.errors import SettingError


def split_names(text: str) -> tuple[str, ...]:
    """Those that semicolons separate."""
    return tuple(name.strip() for name in text.split(";") if name.strip())


def split_levels(text: str) -> tuple[int, ...]:
    """Those that commas separate; raises ValueError for what is none, or for none at all."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError("use whole numbers from 1 on, with commas between them")
    return tuple(map(int, parts))


def check_names(flag: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raises SettingError for a name that is none of the `known`."""
    known = tuple(known)
    if unknown := [name for name in names if name not in known]:
        raise SettingError(f"{flag}: there is no {unknown[0]!r} here, only {'; '.join(known)}")
