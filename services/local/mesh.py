"""The whole mesh on this host: `async with LocalMesh(layout, options) as mesh`."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.edge.bootstrap import write
from services.edge.spec import KeySets, Source, Upstream, Upstreams
from services.local import specs
from services.local.access_log import rotate_when_full
from services.local.certificates import Certificates, ensure_certificates
from services.local.edge import edge_spec
from services.local.layout import StateLayout
from services.local.mesh_ports import PortChoice, Ports, any_ports, chosen_ports
from services.local.ports import LOOPBACK
from services.local.preparation import prepare_model
from services.local.process import Show, to_logs_only
from services.local.profile import FILE, Endpoints
from services.local.supervisor import Supervisor
from triton_models.cpu_engine.preparation import PreparedModel, Progress

READY_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """Options of one run."""

    routers: int = 1
    ports: PortChoice | None = None
    """The ports wanted; None for any."""
    show: Show = to_logs_only
    """Sees every log line."""
    progress: Progress | None = None
    """Follows the preparation of the model; called from another thread."""
    hurry: asyncio.Event | None = None
    """Once it is set, stopping means killing."""
    etcd_binary: Path | None = None
    """An etcd in place of the packaged one."""


def router_names(count: int) -> list[str]:
    """`router` where there is one, `router-1` and so on where there are several."""
    return ["router"] if count == 1 else [f"router-{number}" for number in range(1, count + 1)]


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class LocalMesh:
    """etcd, Triton, audit, config, routers and Envoy; entered when everything but Triton answers.

    `wait_ready` waits for Triton as well, which takes longest.
    """

    def __init__(self, layout: StateLayout, options: MeshOptions | None = None) -> None:
        self.layout = layout
        self._options = options or MeshOptions()
        self._routers = router_names(self._options.routers)
        self._ports: Ports | None = None
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor(
            layout.logs_dir,
            self._options.show,
            stop_order=[["envoy"], self._routers, ["config"], ["audit", "etcd"]],
            hurry=self._options.hurry,
        )
        self.model: PreparedModel | None = None
        self._certificates: Certificates | None = None

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            ProcessFailedError: a process did not get ready.
            CommandError: the model cannot be prepared, or a port that was asked for is taken.
        """
        services = ["config", "audit", *self._routers]
        try:
            choice = self._options.ports
            self._ports = self._stack.enter_context(
                chosen_ports(services, choice) if choice else any_ports(services)
            )
            await self._stack.enter_async_context(self._supervisor)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_triton())
                group.create_task(self._start_services())
        except BaseException as error:
            await self._stack.aclose()
            # The first failure; the others follow from it.
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self.endpoints({}).save(self.layout.state_dir)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, and remove the file by which commands find the mesh."""
        (self.layout.state_dir / FILE).unlink(missing_ok=True)
        await self._stack.aclose()

    async def _start_triton(self) -> None:
        self.model = await prepare_model(self.layout.models_dir, self._options.progress)
        spec = await asyncio.to_thread(specs.triton, self.layout, self.ports, self.model.directory)
        self._supervisor.start(spec)

    async def _start_services(self) -> None:
        start = self._supervisor.start
        etcd = start(specs.etcd(self.layout, self.ports, self._options.etcd_binary))
        audit = start(specs.audit(self.layout, self.ports))
        # The config service could wait for etcd itself, but would log that it does.
        await etcd.wait_ready(READY_SECONDS)
        config = start(specs.config(self.layout, self.ports))
        for process in (audit, config):
            await process.wait_ready(READY_SECONDS)
        edge_and_routers = [start(specs.router(self.layout, self.ports, name)) for name in self._routers]
        edge_and_routers.append(start(specs.envoy(self.layout, await asyncio.to_thread(self._write_edge))))
        rotation = rotate_when_full(self.layout.access_log_path, self.layout.socket("envoy-admin"))
        task = asyncio.create_task(rotation, name="access log")
        task.add_done_callback(self._rotation_ended)
        self._stack.push_async_callback(_cancelled, task)
        for process in edge_and_routers:
            await process.wait_ready(READY_SECONDS)

    def _rotation_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):  # proven: the-end-of-the-rotation-shows
            self._options.show(
                "mesh", f"Envoy's access log is not rotated any more, and grows: {type(error).__name__}"
            )

    def _write_edge(self) -> Path:
        layout = self.layout
        layout.edge_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificates = ensure_certificates(layout.edge_dir, dt.datetime.now(dt.UTC))
        path = layout.edge_dir / "bootstrap.pb"
        spec = edge_spec(
            layout,
            certificates,
            Upstreams(
                router=Upstream(tuple(layout.target(name) for name in self._routers)),
                config=Upstream((layout.target("config-admin"),)),
                audit=Upstream((layout.target("audit-review"),)),
            ),
            KeySets(
                config=Source(file=layout.config_dir / "jwks.json"),
                audit=Source(file=layout.audit_dir / "jwks.json"),
            ),
            tenant_port=self.ports.tenant,
            operations_port=self.ports.operations,
        )
        write(spec, path)
        self._certificates = certificates
        return path

    def endpoints(self, keys: dict[str, Path]) -> Endpoints:
        """Addresses of the mesh, with the key files made so far."""
        assert self._certificates is not None
        return Endpoints(
            tenant_address=f"localhost:{self.ports.tenant}",
            operations_address=f"localhost:{self.ports.operations}",
            ca_path=self._certificates.ca_path,
            operator_key_path=self.layout.operator_key_path,
            keys=keys,
            state_dir=self.layout.state_dir,
            metrics={name: f"{LOOPBACK}:{port}" for name, port in self.ports.metrics.items()},
            metrics_token_path=self.layout.metrics_token_path,
        )

    @property
    def ports(self) -> Ports:
        """The ports of this run."""
        assert self._ports is not None
        return self._ports

    @property
    def triton_target(self) -> str:
        """Triton's gRPC target."""
        return f"127.0.0.1:{self.ports.triton_grpc}"

    async def wait_ready(self, name: str, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until a process answers.

        Raises:
            ProcessFailedError: it did not.
        """
        await self._supervisor[name].wait_ready(timeout_seconds)

    async def kill(self, name: str) -> None:
        """Kill -9 a process and keep it down; for tests."""
        await self._supervisor[name].kill()

    async def start(self, name: str) -> None:
        """Start a killed process again and wait until it answers."""
        process = self._supervisor[name]
        process.start()
        await process.wait_ready(READY_SECONDS)
