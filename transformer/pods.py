"""The predictor's pods by their addresses, in turn; one that has just failed is left out until it can be reached."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from transformer.connector import Resolve
from transformer.hop import CONNECT_SECONDS
from transformer.renewal import Renewal
from transformer.target import Host

SHUN_SECONDS = 1.0
"""After which a pod that has failed is tried again, with a connection first."""


class Pod(NamedTuple):
    """Where it is, and the name that it was found by; each as HOST:PORT."""

    address: str
    authority: str


class Pods:
    """Looks the hosts up when first asked, and then again and again; made inside a running event loop."""

    def __init__(self, hosts: Sequence[Host], resolve: Resolve) -> None:
        self._hosts, self._resolve = hosts, resolve
        self._found: dict[Host, list[Pod]] = {}
        self._pods: tuple[Pod, ...] = ()
        self._shunned: dict[Pod, asyncio.Task[None]] = {}
        self._turn = 0
        self._first = asyncio.Lock()
        self._closed = False
        self._renewal = Renewal(self._renew)

    async def choose(self) -> Pod:
        """The one whose turn it is; raises OSError when no host is known."""
        if not self._pods:
            async with self._first:
                if not self._pods:
                    await self._look_up()
        first = pod = self._take_turn()
        while pod in self._shunned:
            pod = self._take_turn()
            if pod == first:  # all are, and trying is better than not
                break
        return pod

    def note_failure(self, pod: Pod) -> None:
        """Leave the pod out for a while, and look up within some seconds at most."""
        if pod not in self._shunned and not self._closed:
            self._shunned[pod] = asyncio.create_task(self._readmit(pod))
        self._renewal.note_failure()

    async def close(self) -> None:
        """End the look-ups."""
        self._closed = True
        await self._renewal.close()
        tasks = list(self._shunned.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take_turn(self) -> Pod:
        self._turn = (self._turn + 1) % len(self._pods)
        return self._pods[self._turn]

    async def _readmit(self, pod: Pod) -> None:
        """Let it have calls again as soon as there is somebody, or when it is not ours any more."""
        try:
            reached = False
            while pod in self._pods and not reached:
                await asyncio.sleep(SHUN_SECONDS)
                reached = await _is_there(pod)
        finally:
            self._shunned.pop(pod, None)

    async def _renew(self) -> None:
        with contextlib.suppress(OSError):  # who asks next is told of it
            await self._look_up()

    async def _look_up(self) -> None:
        """Take the pods that are there now; those of a host that has none now stay."""
        await asyncio.gather(*map(self._look_up_host, self._hosts))
        # A pod that two names have is one.
        self._pods = tuple({pod.address: pod for pods in self._found.values() for pod in pods}.values())
        if not self._pods:
            raise OSError("no host of the predictor's can be resolved")

    async def _look_up_host(self, host: Host) -> None:
        name, port = host
        with contextlib.suppress(OSError, UnicodeError):  # TimeoutError is one
            async with asyncio.timeout(CONNECT_SECONDS):
                addresses = await self._resolve(name, port)
            if addresses:
                self._found[host] = [Pod(_join(address, port), _join(name, port)) for address in addresses]


async def _is_there(pod: Pod) -> bool:
    host, _, port = pod.address.rpartition(":")
    # RuntimeError: what uvloop raises for some sockets that fail
    with contextlib.suppress(OSError, RuntimeError):
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
        return True
    return False


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
