"""The V2 model repository of one model: load it again while it serves, or unload it, by callers who have the token."""

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from typing import Any

from serving.errors import (
    ArtefactError,
    LoadFailed,
    NotReady,
    RepositoryBusy,
    RepositoryClosed,
    ServiceError,
    SettingError,
    Unauthenticated,
)
from serving.logs import hide_secrets, log, log_exception, warn
from serving.model import State, V2Model

Load = Callable[[], Coroutine[Any, Any, None]]


class Repository:
    """Loads `model` with `load`, which swaps the new artefacts in as its last step; closed without a token."""

    def __init__(self, model: V2Model[Any], load: Load, token: str) -> None:
        self.model = model
        self._load, self._token = load, token
        self._loading: asyncio.Task[LoadFailed | None] | None = None

    async def load_first(self) -> None:
        """Load when the process starts; raises what ends it."""
        await _explain(self._load)

    def check(self, authorization: str | None) -> None:
        """Raise RepositoryClosed, or Unauthenticated unless the caller sent `Bearer TOKEN`."""
        if not self._token:
            raise RepositoryClosed("the model repository is closed: start the server with a --repository_token")
        expected = f"Bearer {self._token}".encode()
        if not hmac.compare_digest((authorization or "").encode(errors="replace"), expected):
            raise Unauthenticated("send the repository's token as the header Authorization: Bearer TOKEN")

    def index(self) -> list[dict[str, str]]:
        """The models, as Triton's repository extension lists them."""
        state = "READY" if self.model.state is State.SERVING else "UNAVAILABLE"
        return [{"name": self.model.name, "version": "", "state": state, "reason": self.model.state.value}]

    async def load(self) -> None:
        """Load beside what serves, and swap; it goes on when its caller leaves. Raises LoadFailed and keeps the old."""
        self._check_free()
        self._loading = asyncio.create_task(self._load_beside())
        if failed := await asyncio.shield(self._loading):
            raise failed

    def unload(self) -> None:
        """Refuse requests from now on, and give the memory back when those in flight have ended."""
        self._check_free()
        self.model.state = State.UNLOADED
        self.model.slot.empty()
        log("model unloaded")

    async def _load_beside(self) -> LoadFailed | None:
        try:
            await _explain(self._load)
        except (ArtefactError, SettingError, ServiceError) as error:
            warn("the load failed", reason=str(error))
            return LoadFailed(f"nothing was changed: {hide_secrets(str(error))}")
        if self.model.state is State.UNLOADED:
            self.model.state = State.SERVING
        return None

    def _check_free(self) -> None:
        if self.model.state not in (State.SERVING, State.UNLOADED):
            raise NotReady("the server is starting or stopping")
        if self._loading and not self._loading.done():
            raise RepositoryBusy("the model is being loaded; ask again when that has ended")


async def _explain(load: Load) -> None:
    """Turn what no step foresaw into one sentence, with its place in the log."""
    try:
        await load()
    except (ArtefactError, SettingError, ServiceError):
        raise
    except Exception as error:
        log_exception("the load failed", error)
        raise ArtefactError(f"loading failed with an unexpected {type(error).__name__}: {error}") from None
