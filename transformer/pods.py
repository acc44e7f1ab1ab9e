"""The predictor's pods by their addresses, in turn; those that have just failed are left out."""

import asyncio
import time
from collections.abc import Sequence

from transformer.connector import Resolve
from transformer.renewal import Renewal

SHUN_SECONDS = 1.0
"""For which an address that has failed gets no call, while there are others."""

Host = tuple[str, int]


class Pods:
    """Looks the hosts up when first asked, and then again and again; made inside a running event loop."""

    def __init__(self, hosts: Sequence[Host], resolve: Resolve) -> None:
        self._hosts, self._resolve = hosts, resolve
        self._addresses: tuple[str, ...] = ()
        self._shunned: dict[str, float] = {}  # until when, on the monotonic clock
        self._turn = 0
        self._first = asyncio.Lock()
        self._renewal = Renewal(self._look_up)

    async def choose(self) -> str:
        """HOST:PORT of the pod whose turn it is; raises OSError when no host is known."""
        if not self._addresses:
            async with self._first:
                if not self._addresses:
                    await self._look_up()
        first = self._take_turn()
        address = first
        while not self._is_well(address):
            address = self._take_turn()
            if address == first:  # none is well, and trying is better than not
                break
        return address

    def note_failure(self, address: str) -> None:
        """Leave the pod out for a moment, and look up within some seconds at most."""
        self._shunned[address] = time.monotonic() + SHUN_SECONDS
        self._renewal.note_failure()

    async def close(self) -> None:
        """End the look-ups."""
        await self._renewal.close()

    def _take_turn(self) -> str:
        self._turn = (self._turn + 1) % len(self._addresses)
        return self._addresses[self._turn]

    def _is_well(self, address: str) -> bool:
        until = self._shunned.get(address)
        if until is None or until > time.monotonic():
            return until is None
        del self._shunned[address]
        return True

    async def _look_up(self) -> None:
        """Take the addresses that are there now; those that were known stay when none is."""
        found: list[str] = []
        failed: OSError | None = None
        for host, port in self._hosts:
            try:
                found += [_join(address, port) for address in await self._resolve(host, port)]
            except (OSError, UnicodeError) as error:
                failed = error if isinstance(error, OSError) else OSError("not a name that can be resolved")
        if found:
            self._addresses = tuple(dict.fromkeys(found))
            self._shunned = {address: until for address, until in self._shunned.items() if address in found}
        elif not self._addresses:
            raise failed or OSError("no addresses")


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
