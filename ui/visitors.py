"""How much of the page's queue one visitor may hold, so that none shuts the others out.

What is quick (saving a concept, trying a prompt, canceling, starting an audit) doesn't go through the queue at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException

MOST_OF_A_KIND = 8  # waiting or running, of one address: pictures, uploads, ...
MOST = 16  # of all kinds


def limit_visitors(queue: Any) -> None:
    """Lets Gradio's queue refuse (429) what is too much of one address.

    A session isn't what is counted: whoever wants a new one only has to make up its name.
    """
    push = queue.push

    async def limited(body: Any, request: Any, username: str | None) -> Any:
        function = queue.blocks.fns.get(body.fn_index)
        kinds = [event.concurrency_id for event in _events(queue) if address(event.request) == address(request)]
        if function is not None and (len(kinds) >= MOST or kinds.count(function.concurrency_id) >= MOST_OF_A_KIND):
            raise HTTPException(429, f"{len(kinds)} of your requests are waiting already; try again when one is done.")
        return await push(body=body, request=request, username=username)

    queue.push = limited


def address(request: Any) -> str:
    """Where a request comes from; behind a proxy on this machine, what that says (uvicorn's X-Forwarded-For)."""
    return request.client.host if request is not None and request.client is not None else ""


def _events(queue: Any) -> Iterator[Any]:
    for waiting in queue.event_queue_per_concurrency_id.values():
        yield from waiting.queue
    for running in queue.active_jobs:
        yield from running or ()
