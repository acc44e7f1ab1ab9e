"""Errors a caller can act on, each with its HTTP status and its gRPC code."""

import re
import traceback
from typing import Self


class ServiceError(Exception):
    """One sentence for the caller, sent as ``{"error": sentence}`` over HTTP and as the details of a gRPC status."""

    status = 500
    code = "INTERNAL"  # by name: programs that end before they serve do not load gRPC
    retry_after: int | None = None  # seconds

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def in_picture(self, position: int) -> "ServiceError":
        """The same error, saying which of several pictures it is about (counted from 0)."""
        return type(self)(f"picture {position}: {self.sentence}")

    @property
    def reason(self) -> str:
        """One of few words for the metrics, such as too_large."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def without_frames(self) -> Self:
        """The error without its traceback, whose frames hold the request's pictures.

        Futures and gRPC keep errors in cycles, and those stay until the garbage collector happens to run.
        """
        traceback.clear_frames(self.__traceback__)
        self.__context__ = None
        return self.with_traceback(None)


class InvalidRequest(ServiceError):
    """Malformed body, unknown or missing tensor, wrong shape or dtype, not a decodable picture."""

    status = 400
    code = "INVALID_ARGUMENT"


class Unauthenticated(ServiceError):
    """The repository's token is missing or wrong."""

    status = 401
    code = "UNAUTHENTICATED"


class RepositoryClosed(ServiceError):
    """Models cannot be loaded or unloaded: no token is set."""

    status = 403
    code = "PERMISSION_DENIED"


class AddressRefused(ServiceError):
    """The picture's address is one that this service does not connect to."""

    status = 403
    code = "PERMISSION_DENIED"


class NotFound(ServiceError):
    """Nothing of that name."""

    status = 404
    code = "NOT_FOUND"


class UnknownModel(NotFound):
    """No model of that name."""


class RepositoryBusy(ServiceError):
    """A load is under way already."""

    status = 409
    code = "ABORTED"
    retry_after = 5


class BodyTooSlow(ServiceError):
    """The caller's own body did not arrive in the request's time."""

    status = 408
    code = "DEADLINE_EXCEEDED"


class TooLarge(ServiceError):
    """Too many bytes or pixels."""

    status = 413
    code = "RESOURCE_EXHAUSTED"


class UnsupportedContentType(ServiceError):
    """The request's own content type."""

    status = 415
    code = "INVALID_ARGUMENT"


class OutOfRange(ServiceError):
    """A well-formed value out of range."""

    status = 422
    code = "INVALID_ARGUMENT"


class FetchFailed(ServiceError):
    """The picture's host failed or was too slow: the caller's dependency, not our fault."""

    status = 424
    code = "FAILED_PRECONDITION"

    def __init__(self, sentence: str, why: str = "broken") -> None:
        super().__init__(sentence)
        self._why = why

    @property
    def reason(self) -> str:
        return self._why


class LoadFailed(ServiceError):
    """The artefacts cannot be loaded; what served before still does."""

    status = 424
    code = "FAILED_PRECONDITION"


class QueueFull(ServiceError):
    """More work than the queue takes."""

    status = 429
    code = "RESOURCE_EXHAUSTED"
    retry_after = 1


class CallerGone(ServiceError):
    """The caller closed the connection; nobody reads this answer, but the log and the metrics count it."""

    status = 499
    code = "CANCELLED"


class NotReady(ServiceError):
    """A part that is needed is not there (yet)."""

    status = 503
    code = "UNAVAILABLE"
    retry_after = 5


class DeadlineExceeded(ServiceError):
    """The request's time was spent before it was answered."""

    status = 504
    code = "DEADLINE_EXCEEDED"


class ArtefactError(Exception):
    """An artefact that cannot be served; the process that needs it exits 1 with this sentence."""


class SettingError(Exception):
    """A setting that cannot be used; the process exits 2 with this sentence."""
