"""One pod from its binding to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from localcluster.client import STRATEGIC_MERGE_PATCH, ApiError, core
from localcluster.network import reach_host
from localcluster.node.backoff import RestartBackoff, restarts
from localcluster.node.container import Container, ContainerHooks, Launch, UnknownImageError
from localcluster.node.env import ConfigError, Sources, expand, references, resolve
from localcluster.node.events import timestamp
from localcluster.node.images import command_line, gpu_environment
from localcluster.node.podstatus import ContainerRecord, PodFacts, Terminated, build_status
from localcluster.node.probes import ProbeTarget
from localcluster.node.rewrite import Rewriter, service_names
from localcluster.node.seed import seed_records
from localcluster.node.volumes import MountError, PodVolumes, all_containers
from localcluster.settings import (
    API_RETRY_SECONDS,
    START_DELAY_ANNOTATION,
    VOLUME_REFRESH_SECONDS,
    VOLUME_RETRY_SECONDS,
    JsonObject,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcluster.node.context import NodeContext

log = logging.getLogger(__name__)

FINISHED = ("Succeeded", "Failed")
"""Phases in which nothing of a pod runs any more."""

GPU_RESOURCE = "nvidia.com/gpu"
"""Extended resource by which containers ask for GPUs."""

DEFAULT_TERMINATION_MESSAGE_PATH = "/dev/termination-log"
"""The API's default of `terminationMessagePath`."""


class PodWorker:
    """Runs one pod; the agent gives it every new version of the object."""

    def __init__(self, pod: JsonObject, context: NodeContext) -> None:
        self.pod = pod
        self._context = context
        self._uid: str = pod["metadata"]["uid"]
        # Short, because programs put unix sockets below it.
        self.folder = context.pods / self._uid[:8]
        self._address = self._take_address()
        self._start_time = pod.get("status", {}).get("startTime") or timestamp()
        self._gpus = {} if pod.get("status", {}).get("phase") in FINISHED else self._take_gpus()
        self._volumes = PodVolumes(self.folder / "volumes", context.api_server, context.objects, self._sources)
        self._volumes.rewrite = self._rewrite_file
        init, main = seed_records(pod, timestamp())
        self._init = [self._container(spec, record) for spec, record in init]
        self._main = [self._container(spec, record) for spec, record in main]
        self._sandbox = False
        self._dirty = asyncio.Event()
        self._leave = asyncio.Event()
        self._killed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._written: JsonObject | None = None

    def _take_address(self) -> str:
        known = self.pod.get("status", {}).get("podIP")
        if known and self._context.network.contains(known):
            self._context.addresses.reserve(known)
            return str(known)
        return self._context.addresses.acquire()

    def _take_gpus(self) -> dict[str, tuple[int, ...]]:
        limits = {item["name"]: item.get("resources", {}).get("limits", {}) for item in self.pod["spec"]["containers"]}
        return {name: self._context.gpus.acquire(int(limit.get(GPU_RESOURCE, 0))) for name, limit in limits.items()}

    def _release_gpus(self) -> None:
        for indices in self._gpus.values():
            self._context.gpus.release(indices)
        self._gpus = {}

    def _container(self, spec: JsonObject, record: ContainerRecord) -> Container:
        policy = "Always" if record.sidecar else self.pod["spec"].get("restartPolicy", "Always")
        if spec in self.pod["spec"].get("initContainers", []) and not record.sidecar and policy == "Always":
            # Init containers run to completion: only a failure starts them again.
            policy = "OnFailure"
        hooks = ContainerHooks(
            prepare=partial(self._prepare, spec),
            changed=self._changed,
            emit=self._emit,
            restarts=partial(restarts, policy),
            grace=lambda: float(self.pod["spec"].get("terminationGracePeriodSeconds", 30)),
        )
        backoff = RestartBackoff(base=self._context.backoff_base, cap=30 * self._context.backoff_base)
        logs = self.folder / "logs" / spec["name"]
        return Container(spec, record, hooks, logs=logs, pids=self._context.pids, backoff=backoff)

    def _changed(self) -> None:
        self._dirty.set()

    def _emit(self, kind: str, reason: str, message: str) -> None:
        self._context.events.record(self.pod, "Warning" if kind == "Warning" else "Normal", reason, message)

    @property
    def name(self) -> str:
        """Namespace and name, for messages."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"

    def container(self, name: str) -> Container | None:
        """Return a container by name."""
        return next((item for item in [*self._init, *self._main] if item.spec["name"] == name), None)

    def start(self) -> None:
        """Begin to run the pod."""
        self._tasks = [
            asyncio.create_task(self._report(), name=f"status of {self.name}"),
            asyncio.create_task(self._run(), name=f"pod {self.name}"),
        ]
        self.update(self.pod)

    def update(self, pod: JsonObject) -> None:
        """Take a new version of the object."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._leave.set()

    def kill(self) -> None:
        """Stop without grace: the object is gone."""
        self._killed = True
        self._leave.set()

    async def halt(self, limit: float) -> None:
        """Stop the processes because the node stops; the object and its status stay as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_all(min(limit, float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))))

    # Life

    async def _run(self) -> None:
        # A late event of a pod that is already gone must not start it again.
        work = asyncio.sleep(0) if self._leave.is_set() else self._live()
        life = asyncio.create_task(work, name=f"life of {self.name}")
        leave = asyncio.create_task(self._leave.wait())
        try:
            await asyncio.wait({life, leave}, return_when=asyncio.FIRST_COMPLETED)
            if life.done() and not life.cancelled() and (error := life.exception()) is not None:
                # Outermost boundary of one pod: a fault of the node must not look like a fault of the pod.
                log.error("pod %s: the node failed", self.name, exc_info=error)
                self._emit("Warning", "NodeFault", f"the process node failed: {error!r}; see the supervisor's log")
            await leave
        finally:
            life.cancel()
            leave.cancel()
            await asyncio.wait({life, leave})
        grace = 0.0 if self._killed else float(self.pod["metadata"].get("deletionGracePeriodSeconds", 30))
        await self._stop_all(grace)
        await self._vanish()

    async def _live(self) -> None:
        if self.pod.get("status", {}).get("phase") in FINISHED:
            return
        self._dirty.set()
        if all(isinstance(container.record.state, Terminated) for container in self._main):
            return
        await self._delay_start()
        await self._mount()
        self._sandbox = True
        self._dirty.set()
        async with asyncio.TaskGroup() as group:
            refresh = group.create_task(self._refresh(), name=f"volumes of {self.name}")
            sidecars = []
            for container in self._init:
                task = group.create_task(container.run(), name=f"init container {container.record.name}")
                if container.record.sidecar:
                    sidecars.append(task)
                    await container.started.wait()
                else:
                    await task
                    if not container.record.succeeded:
                        # restartPolicy Never: the pod has failed and its containers never start.
                        break
            else:
                await asyncio.gather(*(group.create_task(container.run()) for container in self._main))
            for task in (refresh, *sidecars):
                task.cancel()
        # Jobs end although their sidecars run: these are stopped last.
        grace = float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        for container in reversed(self._init):
            if container.record.sidecar:
                await container.stop(grace)
        self._release_gpus()
        self._dirty.set()

    async def _delay_start(self) -> None:
        annotations = self.pod["metadata"].get("annotations") or {}
        text = annotations.get(START_DELAY_ANNOTATION)
        if text is None:
            return
        try:
            seconds = float(text)
        except ValueError:
            self._emit("Warning", "InvalidAnnotation", f"{START_DELAY_ANNOTATION}: {text!r} is no number of seconds")
            return
        image = self.pod["spec"]["containers"][0]["image"]
        self._emit("Normal", "Pulling", f'Pulling image "{image}"')
        await asyncio.sleep(seconds)
        self._emit("Normal", "Pulled", f'Successfully pulled image "{image}" in {seconds:g}s (simulated)')

    async def _mount(self) -> None:
        for folder in ("home", "tmp"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        while True:
            try:
                await self._volumes.mount()
            except MountError as error:
                self._emit("Warning", "FailedMount", str(error))
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                self._emit("Warning", "FailedMount", f"the API server does not answer: {error}")
            else:
                return
            await asyncio.sleep(VOLUME_RETRY_SECONDS)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(VOLUME_REFRESH_SECONDS)
            for container in [*self._init, *self._main]:
                container.trim()
            # What was mounted stays as it is while its source is gone or out of reach, as in the kubelet.
            with contextlib.suppress(MountError, ApiError, aiohttp.ClientError, TimeoutError):
                await self._volumes.mount()

    async def _stop_all(self, grace: float) -> None:
        await asyncio.gather(*(container.stop(grace) for container in [*self._main, *reversed(self._init)]))

    # Launch

    def _sources(self) -> Sources:
        status = {
            **self.pod.get("status", {}),
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "hostIP": self._context.network.node_address,
            "hostIPs": [{"ip": self._context.network.node_address}],
        }
        return Sources({**self.pod, "status": status}, allocatable=self._context.allocatable)

    def _rewriter(self, mounts: dict[str, str]) -> Rewriter:
        return Rewriter(mounts, reach_host(self._address), self._context.network, self._context.resolve)

    def _rewrite_file(self, text: str) -> str:
        mounts: dict[str, str] = {}
        for container in all_containers(self.pod):
            for path, folder in self._volumes.mounts(container).items():
                mounts.setdefault(path, folder)
        return self._rewriter(mounts).text(text)

    async def _declared_environment(self, spec: JsonObject) -> dict[str, str]:
        needed, namespace, objects = references(spec), self.pod["metadata"]["namespace"], self._context.objects
        try:
            config_maps = {name: await objects.config_map(namespace, name) for name in needed.config_maps}
            secrets = {name: await objects.secret(namespace, name) for name in needed.secrets}
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            raise ConfigError(str(error)) from error
        return resolve(spec, replace(self._sources(), config_maps=config_maps, secrets=secrets))

    async def _prepare(self, spec: JsonObject) -> Launch:
        program = self._context.images.find(spec["image"])
        if program is None:
            known = ", ".join(self._context.images.names())
            hint = f"give `up` an --image NAME=COMMAND, or use one of {known}"
            msg = f'"{spec["image"]}" is not in the image table of the process node: {hint}'
            raise UnknownImageError(msg)
        declared = await self._declared_environment(spec)
        folder = self.folder / "containers" / spec["name"]
        message = self.folder / "termination" / spec["name"]
        try:
            mounts = self._volumes.mounts(spec)
        except MountError as error:
            raise ConfigError(str(error)) from error
        message_path = spec.get("terminationMessagePath", DEFAULT_TERMINATION_MESSAGE_PATH)
        rewriter = self._rewriter({message_path: str(message), **mounts})
        command = command_line(program, spec)
        given = [expand(part, declared) for part in command.given]
        self._warn_of_unknown_services([*given, *declared.values()])
        kubeconfig = self._volumes.service_account(spec)
        temporary = rewriter.path("/tmp")  # noqa: S108 - the mount point inside the pod
        environment = {
            **self._context.environment,
            "HOME": str(self.folder / "home"),
            "TMPDIR": temporary or str(self.folder / "tmp"),
            "HOSTNAME": self.pod["metadata"]["name"],
            **gpu_environment(self._gpus.get(spec["name"], ()), self._context.real_gpus),
            **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}),
            **({program.termination_variable: str(message)} if program.termination_variable else {}),
            **{name: rewriter.text(value) for name, value in declared.items()},
        }
        working = rewriter.path(spec["workingDir"]) if spec.get("workingDir") else None
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", []) if "name" in port}
        working_folder = Path(working) if working else folder
        target = ProbeTarget(reach_host(self._address), ports, environment, working_folder, rewriter.text)
        arguments = (*command.own, *(rewriter.text(part) for part in given))
        return Launch(arguments, environment, working_folder, message, target)

    def _warn_of_unknown_services(self, texts: Sequence[str]) -> None:
        named = {name for text in texts for name in service_names(text)}
        for namespace, service in sorted(named):
            if self._context.resolve(namespace, service) is None:
                self._emit(
                    "Warning",
                    "ServiceNotFound",
                    f"{service}.{namespace}.svc is no Service with a cluster address now; the name stays as it is "
                    "until the container starts again",
                )

    # Status

    def _facts(self) -> PodFacts:
        return PodFacts(
            init=[item.record for item in self._init],
            main=[item.record for item in self._main],
            pod_ip=self._address,
            host_ip=self._context.network.node_address,
            start_time=self._start_time,
            sandbox=self._sandbox,
        )

    async def _report(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._write_status():
                self._dirty.set()
                await asyncio.sleep(API_RETRY_SECONDS)

    async def _write_status(self) -> bool:
        status = build_status(self.pod, self._facts(), timestamp())
        if status == self._written:
            return True
        metadata = self.pod["metadata"]
        body = {"metadata": {"uid": self._uid}, "status": status}
        path = core("pods", metadata["namespace"], metadata["name"]) + "/status"
        try:
            await self._context.client.patch(path, body, STRATEGIC_MERGE_PATCH)
        except ApiError as error:
            if error.status in (404, 409):
                return True
            log.warning("status of pod %s: %s", self.name, error)
            return False
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("status of pod %s: %s", self.name, error)
            return False
        self._written = status
        return True

    async def _vanish(self) -> None:
        """Remove the pod from the API and from this machine."""
        self._tasks[0].cancel()
        # Before the object goes: the scheduler may bind the next pod at once.
        self._release_gpus()
        if not self._killed:
            await self._write_status()
            await self._delete()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        self._context.addresses.release(self._address)
        self._context.forget(self._uid)

    async def _delete(self) -> None:
        metadata = self.pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}}
        while True:
            try:
                await self._context.client.delete(core("pods", metadata["namespace"], metadata["name"]), options)
            except ApiError as error:
                if error.status in (404, 409):
                    return
                log.warning("deletion of pod %s: %s", self.name, error)
            except (aiohttp.ClientError, TimeoutError) as error:
                log.info("deletion of pod %s: %s", self.name, error)
            else:
                return
            await asyncio.sleep(API_RETRY_SECONDS)
