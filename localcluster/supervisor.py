"""The process that owns a cluster: it starts everything, watches it, and stops it in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import aiohttp

from localcluster import controlplane, egress, kubeconfig, pki, processes
from localcluster.apply import apply_manifest
from localcluster.client import ApiClient, ApiError, certificate_context, core
from localcluster.components import Component, ComponentStatus, StatusBoard
from localcluster.errors import LocalClusterError
from localcluster.network import ClusterNetwork
from localcluster.node.agent import NodeAgent, NodeSettings
from localcluster.provisioner import Provisioner
from localcluster.serviceproxy import ServiceProxy
from localcluster.settings import (
    CLUSTER_MARKER,
    ETCD_CLIENT_PORT,
    KUBELET_PORT,
    MAX_CLUSTERS,
    NODE_NAME,
    REPOSITORY,
    START_TIMEOUT_SECONDS,
    ClusterOptions,
)
from localcluster.state import StateDir, write_atomically

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

log = logging.getLogger(__name__)


def take_number(wanted: int | None, stored: int | None) -> tuple[int, socket.socket]:
    """Claim a cluster number by binding its node address; the socket serves the kubelet endpoint later.

    Args:
        wanted: The number asked for, or None for any.
        stored: The number of the state folder's earlier runs, or None.

    Raises:
        LocalClusterError: If the number is taken, or does not fit the state folder.
    """
    if wanted is not None and stored is not None and wanted != stored:
        msg = (
            f"this state folder holds cluster number {stored}, not {wanted}: its objects have that number's addresses; "
            "use another --state-dir or run `python -m localcluster down --purge` first"
        )
        raise LocalClusterError(msg)
    fixed = wanted if wanted is not None else stored
    for number in range(MAX_CLUSTERS) if fixed is None else (fixed,):
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            endpoint.bind((ClusterNetwork(number).node_loopback, KUBELET_PORT))
            endpoint.listen(128)
        except OSError:
            endpoint.close()
            continue
        return number, endpoint
    taken = f"cluster number {fixed} is" if fixed is not None else f"all {MAX_CLUSTERS} cluster numbers are"
    msg = f"{taken} in use on this machine (address 127.(1+number).0.1:{KUBELET_PORT}); stop the other cluster first"
    raise LocalClusterError(msg)


class Supervisor:
    """Runs one cluster until it is told to stop."""

    def __init__(self, state: StateDir, options: ClusterOptions, number: int, endpoint: socket.socket) -> None:
        self._state = state
        self._options = options
        self._endpoint = endpoint
        self._network = ClusterNetwork(number)
        self._server = controlplane.api_server(self._network)
        self._board = StatusBoard(state.status_file, number=number)
        self._environment = {
            "PATH": f"{state.bin}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(state.root),
            CLUSTER_MARKER: state.cluster_id(),
        }

    async def run(self, stop: asyncio.Event) -> int:
        """Start the cluster, wait for `stop`, and stop it in reverse order; return the exit code."""
        self._board.phase("starting")
        self._write_files()
        try:
            async with contextlib.AsyncExitStack() as stack:
                start = asyncio.create_task(self._start(stack), name="start")
                waiting = asyncio.create_task(stop.wait())
                try:
                    await asyncio.wait({start, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    if start.done():
                        await start
                        self._board.phase("ready")
                        log.info("cluster %d is ready", self._network.number)
                        await waiting
                finally:
                    start.cancel()
                    waiting.cancel()
                    await asyncio.wait({start, waiting})
                self._board.phase("stopping")
        except LocalClusterError as error:
            log.critical("%s", error)
            self._board.phase("failed", str(error))
            return 1
        self._board.phase("stopped")
        return 0

    def _write_files(self) -> None:
        state = self._state
        pki.ensure(state.pki, self._network)
        for name, path in (
            ("admin", state.kubeconfig),
            ("controller-manager", state.root / "controller-manager.kubeconfig"),
            ("scheduler", state.root / "scheduler.kubeconfig"),
        ):
            write_atomically(path, kubeconfig.with_certificate(self._server, state.pki, name), mode=0o600)
        controlplane.write_audit_policy(state.root / "audit-policy.json")

    def _component(self, name: str, argv: Sequence[str], address: str) -> Component:
        return Component(
            name,
            argv,
            address=address,
            logs=self._state.logs,
            pids=self._state.pids,
            environment=self._environment,
            board=self._board,
        )

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything; what is entered into the stack first is stopped last."""
        host = self._network.node_loopback
        await self._start_egress(stack)
        etcd = self._component("etcd", controlplane.etcd(self._state, self._network), f"{host}:{ETCD_CLIENT_PORT}")
        stack.push_async_callback(etcd.stop)
        await etcd.start()
        async with ApiClient(
            f"https://{etcd.status.address}", certificate_context(self._state.pki, "apiserver-etcd-client")
        ) as store:
            await etcd.wait_ready(lambda: _answers_ready(store))
        api = self._component(
            "kube-apiserver", controlplane.kube_apiserver(self._state, self._network, self._options), self._server
        )
        stack.push_async_callback(api.stop)
        await api.start()
        admin = await self._client(stack, "admin")
        await api.wait_ready(lambda: _answers_ready(admin), needs=(etcd,))
        await self._start_controllers(stack)
        node = await self._start_node(stack, admin)
        await self._install(admin)
        await _until(node.registered.is_set, "the node has not registered itself")
        await _until_async(lambda: _node_ready(admin), "the node is not Ready")

    async def _start_egress(self, stack: contextlib.AsyncExitStack) -> None:
        path = egress.short_socket_path(
            egress.socket_candidates(self._state.root), f"localcluster-{self._state.cluster_id()[:12]}.sock"
        )
        server = await egress.start(path)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(server.close)
        write_atomically(self._state.egress_file, egress.selector_configuration(path))
        status = ComponentStatus(
            "egress", str(path), "running", os.getpid(), time.time(), str(self._state.supervisor_log)
        )
        self._board.put(status)

    async def _client(self, stack: contextlib.AsyncExitStack, identity: str) -> ApiClient:
        client = ApiClient(self._server, certificate_context(self._state.pki, identity))
        return await stack.enter_async_context(client)

    async def _start_controllers(self, stack: contextlib.AsyncExitStack) -> None:
        state, network = self._state, self._network
        controllers = [
            self._component(
                "kube-controller-manager", controlplane.kube_controller_manager(state, network, self._options), ""
            ),
            self._component("kube-scheduler", controlplane.kube_scheduler(state, network), ""),
        ]

        async def stop() -> None:
            await asyncio.gather(*(component.stop() for component in controllers))

        stack.push_async_callback(stop)
        for component in controllers:
            await component.start()
            # They serve no port; they count as running until they end.
            await component.wait_ready(_at_once)

    async def _start_node(self, stack: contextlib.AsyncExitStack, admin: ApiClient) -> NodeAgent:
        proxy = ServiceProxy(admin, self._network)
        identity = await self._client(stack, "node")

        def resolve(namespace: str, name: str) -> str | None:
            service = proxy.services.get((namespace, name))
            address = service["spec"].get("clusterIP") if service else None
            return None if address in (None, "", "None") else str(address)

        settings = NodeSettings(
            state=self._state,
            options=self._options,
            network=self._network,
            api_server=self._server,
            endpoint=self._endpoint,
            resolve=resolve,
            python=sys.executable,
            repository=REPOSITORY,
        )
        agent = NodeAgent(identity, settings)
        self._service(stack, "service-proxy", str(self._network.services), proxy.run())
        self._service(stack, "provisioner", str(self._state.volumes), Provisioner(admin, self._state.volumes).run())
        self._service(stack, "node", f"{self._network.node_loopback}:{KUBELET_PORT}", agent.run())
        stack.push_async_callback(agent.stop)
        return agent

    def _service(
        self, stack: contextlib.AsyncExitStack, name: str, address: str, work: Coroutine[None, None, None]
    ) -> None:
        """Run a part of the supervisor as a task; its failure is shown like that of a process."""
        log_file = str(self._state.supervisor_log)
        status = ComponentStatus(name, address, "running", os.getpid(), time.time(), log_file)
        self._board.put(status)

        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # the outermost boundary of this part: it must not end the others
                log.exception("%s failed", name)
                status.state, status.detail = "dead", f"failed with {type(error).__name__}: {error}"
                self._board.put(status)

        task = asyncio.create_task(guarded(), name=name)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait({task})

        stack.push_async_callback(stop)

    async def _install(self, admin: ApiClient) -> None:
        await _until_async(lambda: _exists(admin, core("serviceaccounts", "default", "default")), "no service account")
        await apply_manifest(admin, "base.yaml")
        if self._options.prometheus:
            await apply_manifest(admin, "prometheus.yaml")


async def _at_once() -> bool:
    return True


async def _answers_ready(client: ApiClient) -> bool:
    """Say whether etcd or kube-apiserver is ready; etcd listens before it has opened its database."""
    try:
        await client.get("/readyz")
    except (ApiError, aiohttp.ClientError, TimeoutError):
        return False
    return True


async def _exists(client: ApiClient, path: str) -> bool:
    try:
        await client.get(path)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


async def _node_ready(client: ApiClient) -> bool:
    if not await _exists(client, core("nodes", None, NODE_NAME)):
        return False
    node = await client.get(core("nodes", None, NODE_NAME))
    conditions = {item["type"]: item["status"] for item in node.get("status", {}).get("conditions", [])}
    # The scheduler goes by the taints, which kube-controller-manager takes away a moment later.
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


async def _until(condition: Callable[[], bool], complaint: str) -> None:
    async def ask() -> bool:
        return condition()

    await _until_async(ask, complaint)


async def _until_async(condition: Callable[[], Awaitable[bool]], complaint: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not await condition():
        if time.monotonic() > deadline:
            msg = f"{complaint} after {START_TIMEOUT_SECONDS:.0f} s"
            raise LocalClusterError(msg)
        await asyncio.sleep(0.1)


def supervise(state: StateDir) -> int:
    """Run a cluster in this process until SIGTERM; the entry point of the daemon."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = state.read_options()
    try:
        number, endpoint = take_number(options.number, state.cluster_number())
    except LocalClusterError as error:
        StatusBoard(state.status_file).phase("failed", str(error))
        log.critical("%s", error)
        return 1
    state.write_number(number)
    processes.record(state.pids, "supervisor", os.getpid())
    if sys.version_info < (3, 12):
        # The default of 3.11 waits for every child in a thread of its own.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    with _watchdog(state), endpoint:
        code = asyncio.run(_run(state, options, number, endpoint))
    processes.forget(state.pids, "supervisor")
    return code


async def _run(state: StateDir, options: ClusterOptions, number: int, endpoint: socket.socket) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    return await Supervisor(state, options, number, endpoint).run(stop)


@contextlib.contextmanager
def _watchdog(state: StateDir) -> Iterator[None]:
    command = [sys.executable, "-m", "localcluster", "--state-dir", str(state.root), "watchdog"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    processes.record(state.pids, "watchdog", process.pid)
    try:
        yield
    finally:
        process.communicate(b"q")
        processes.forget(state.pids, "watchdog")
