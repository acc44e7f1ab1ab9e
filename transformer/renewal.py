"""Looks something up again and again, and soon after a failure."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from serving.logs import log_exception

LOOK_UP_SECONDS = 5.0
"""Clusters' DNS servers answer from a cache for 5 to 30 s."""
LEAST_SECONDS = 1.0
"""Between two look-ups, also while calls fail."""


class Renewal:
    """Calls `renew` every few seconds until it is closed; made inside a running event loop."""

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self._renew = renew
        self._failed = asyncio.Event()
        self._task = asyncio.create_task(self._repeat())

    def note_failure(self) -> None:
        """Look up within some seconds at most: a call was not answered."""
        self._failed.set()

    async def close(self) -> None:
        """Stop, also in the middle of a look-up."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(LEAST_SECONDS)
            # Not wait_for: in Python 3.11 a cancellation may be lost in it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_UP_SECONDS - LEAST_SECONDS):
                    await self._failed.wait()
            self._failed.clear()
            try:
                await self._renew()
            except Exception as error:
                log_exception("the predictor was not looked up", error)
