"""An identity provider's key endpoint on loopback, in a thread of its own so that any server process can ask it."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.unit.depth_server.token_forge import jwks

START_SECONDS = 10.0


class IssuerServer:
    """Serves `content` at `url`, or `status` instead if it is not 200, and counts how often it is asked."""

    def __init__(self) -> None:
        self.content = jwks()
        self.status = 200
        self.asked = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="issuer")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/jwks.json", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=self.status, body=self.content, content_type="application/json")
