"""Logs as one JSON object a line on standard error."""

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOGGER = "doggos"
_USER = re.compile(r"""(\w://)[^\s"'\\/?#]*@""")
_QUERY = re.compile(r"""(\w://[^\s"'\\?#]*)[?#][^\s"'\\]*""")


class JsonFormatter(logging.Formatter):
    """Time, level, message and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1]:
            entry["exception"] = _describe(record.exc_info[1])
        return hide_secrets(json.dumps(entry, default=str))


def hide_secrets(text: str) -> str:
    """Take the user and query parts out of all URLs in `text`, whoever wrote it."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


def _describe(error: BaseException) -> str:
    """What an unexpected exception was and where it came from, innermost first; not its values."""
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return " < ".join([type(error).__name__, *reversed(places)])


def configure_logs(level: str) -> None:
    """Send every logger of the process, and Python's warnings, through the JSON formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger(LOGGER).setLevel(level.upper())


def log(message: str, /, **fields: Any) -> None:
    """Write one line with `fields`."""
    logging.getLogger(LOGGER).info(message, extra={"fields": fields})


def warn(message: str, /, **fields: Any) -> None:
    """Write one warning with `fields`."""
    logging.getLogger(LOGGER).warning(message, extra={"fields": fields})


def log_exception(message: str, error: BaseException, /, **fields: Any) -> None:
    """Write one error line that says what `error` is and where it came from."""
    logging.getLogger(LOGGER).error(message, exc_info=error, extra={"fields": fields})
