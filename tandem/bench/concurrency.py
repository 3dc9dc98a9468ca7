"""Several coroutines at a time, none of which outlives the others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(each: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all. Raises the first error, once the others have ended, too."""
    tasks = [asyncio.create_task(one) for one in each]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
