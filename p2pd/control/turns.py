"""A bound on work that is under way at once; who waits for a place gets it in turn with others."""

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

Owner = TypeVar("Owner", bound=Hashable)


class Turns(Generic[Owner]):
    """`places` for work of several owners.

    A place that becomes free goes to each owner that waits in turn, each owner's work in order.
    How much may wait is for the owners to bound.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[Owner, deque[trio.Event]] = {}

    @asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncIterator[None]:
        """Hold a place within the `with`; wait for it first."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, owner: Owner) -> None:
        called = trio.Event()
        self._waiting.setdefault(owner, deque()).append(called)
        try:
            await called.wait()
        except trio.Cancelled:
            if called.is_set():
                # Whoever gave it the place was cancelled at the same moment.
                self._pass_on()
            else:
                self._leave(owner, called)
            raise

    def _leave(self, owner: Owner, called: trio.Event) -> None:
        calls = self._waiting[owner]
        calls.remove(called)
        if not calls:
            del self._waiting[owner]

    def _pass_on(self) -> None:
        owner = next(iter(self._waiting), None)
        if owner is None:
            self._free += 1
            return
        calls = self._waiting.pop(owner)
        calls.popleft().set()
        if calls:
            self._waiting[owner] = calls
