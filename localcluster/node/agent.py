"""The node: registers itself, renews its Lease, and keeps a worker per pod bound to it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from localcluster.client import MERGE_PATCH, ApiClient, ApiError, api_path, core
from localcluster.informer import Change, Informer
from localcluster.network import ClusterNetwork, PodAddressPool
from localcluster.node import nodeobject
from localcluster.node.context import GpuPool, NodeContext
from localcluster.node.events import EventRecorder, timestamp
from localcluster.node.images import ImageTable, base_environment
from localcluster.node.kubelet_api import KubeletApi, tls_context
from localcluster.node.objects import ApiObjects
from localcluster.node.worker import PodWorker
from localcluster.settings import (
    API_RETRY_SECONDS,
    CLUSTER_MARKER,
    HEARTBEAT_SECONDS,
    NODE_NAME,
    NODE_STATUS_SECONDS,
    POD_STOP_SECONDS,
    ClusterOptions,
    JsonObject,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from localcluster.node.container import Container
    from localcluster.node.rewrite import ResolveService
    from localcluster.state import StateDir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeSettings:
    """What the node is made from.

    Attributes:
        endpoint: The bound socket of the kubelet endpoint.
        resolve: Looks up a Service's cluster address.
        python: Interpreter that runs this checkout's packages.
    """

    state: StateDir
    options: ClusterOptions
    network: ClusterNetwork
    api_server: str
    endpoint: socket.socket
    resolve: ResolveService
    python: str
    repository: Path


class NodeAgent:
    """Runs the pods that the scheduler bound to the node."""

    def __init__(self, client: ApiClient, settings: NodeSettings) -> None:
        self._client = client
        self._settings = settings
        self._workers: dict[str, PodWorker] = {}
        self._stopping = False
        self.registered = asyncio.Event()
        self._events = EventRecorder(client)
        self._context = self._new_context()
        self._pods = Informer(client, core("pods"), self._on_pod, {"fieldSelector": f"spec.nodeName={NODE_NAME}"})

    def _new_context(self) -> NodeContext:
        settings = self._settings
        state, options = settings.state, settings.options
        environment = base_environment(settings.python, settings.repository, state.bin)
        return NodeContext(
            client=self._client,
            network=settings.network,
            api_server=settings.api_server,
            pods=state.pods,
            pids=state.pids,
            addresses=PodAddressPool(settings.network),
            gpus=GpuPool(options.gpus),
            images=ImageTable(settings.python, options.images),
            events=self._events,
            objects=ApiObjects(self._client, state.volumes),
            resolve=settings.resolve,
            environment={**environment, CLUSTER_MARKER: state.cluster_id()},
            real_gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))),
            allocatable=nodeobject.capacity(options),
            forget=self._forget,
            backoff_base=options.backoff_base_seconds,
        )

    async def run(self) -> None:
        """Run until cancelled."""
        runner = await self._serve()
        try:
            await self._register()
            self.registered.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._every(HEARTBEAT_SECONDS, self._renew_lease), name="node lease")
                group.create_task(self._every(NODE_STATUS_SECONDS, self._report), name="node status")
                group.create_task(self._events.run(), name="events")
                group.create_task(self._pods.run(), name="pods of the node")
                await self._pods.synced.wait()
                await asyncio.to_thread(self._remove_strays)
        finally:
            await runner.cleanup()

    def _remove_strays(self) -> None:
        """Remove the folders of pods that were deleted while no node ran."""
        known = {worker.folder for worker in self._workers.values()}
        for folder in self._settings.state.pods.iterdir():
            if folder not in known:
                shutil.rmtree(folder, ignore_errors=True)

    async def stop(self) -> None:
        """Stop every pod's processes; the objects stay."""
        self._stopping = True
        await asyncio.gather(*(worker.halt(POD_STOP_SECONDS) for worker in self._workers.values()))

    async def _serve(self) -> web.AppRunner:
        runner = web.AppRunner(KubeletApi(self._find).application(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, self._settings.endpoint, ssl_context=tls_context(self._settings.state.pki)).start()
        return runner

    def _find(self, namespace: str, pod: str, container: str) -> Container | None:
        for worker in self._workers.values():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, pod):
                return worker.container(container)
        return None

    async def _register(self) -> None:
        while True:
            try:
                try:
                    await self._client.create(core("nodes"), nodeobject.node())
                except ApiError as error:
                    if error.reason != "AlreadyExists":
                        raise
                await self._report()
                await self._renew_lease()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.info("registration of the node: %s; trying again", error)
                await asyncio.sleep(API_RETRY_SECONDS)
            else:
                return

    async def _report(self) -> None:
        now = timestamp()
        status = nodeobject.node_status(self._settings.options, self._settings.network, now, now)
        await self._client.patch(core("nodes", None, NODE_NAME) + "/status", {"status": status}, MERGE_PATCH)

    async def _renew_lease(self) -> None:
        body = nodeobject.lease(dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        collection = api_path("coordination.k8s.io/v1", "leases", "kube-node-lease")
        try:
            await self._client.patch(f"{collection}/{NODE_NAME}", body, MERGE_PATCH)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._client.create(collection, body)

    async def _every(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await action()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.warning("node: %s", str(error) or type(error).__name__)

    def _on_pod(self, change: Change, pod: JsonObject) -> None:
        if self._stopping:
            return
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if change == "DELETED":
            if worker is not None:
                worker.kill()
        elif worker is not None:
            worker.update(pod)
        else:
            worker = self._workers[uid] = PodWorker(pod, self._context)
            worker.start()

    def _forget(self, uid: str) -> None:
        self._workers.pop(uid, None)
