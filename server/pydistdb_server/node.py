"""A node: everything put together from a configuration, started in order, and stopped in the reverse order.

    engine ─ committer ─ clock ─ transport ─ store ─ gateway ─ catalog ─ sessions ─ listeners

A store that is empty makes a new cluster, or joins one (``--join``); a store that belongs to a cluster goes on with it.
The SQL listener opens last, when the node can answer; the HTTP listener says "starting" until then.

SIGTERM and SIGINT stop it cleanly: no new clients, idle clients are told (57P01), running statements get
``DRAIN_SECONDS`` to end and are then cancelled, leases move to other nodes, the commit thread finishes, the store
closes.  A second signal, or a kill, loses nothing either: what was acknowledged is on disk.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import trio
from pydistdb.kv.api import KVError
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.joining import JoinFailed, NodeAddresses, bootstrap, join, open_identity
from pydistdb.kv.operations import Operations
from pydistdb.kv.store import Store
from pydistdb.kv.store_config import StoreConfig
from pydistdb.kv.versions import THIS_RELEASE, ClusterVersion, Supported, VersionConflict, parse_supported
from pydistdb.sql.api import Session
from pydistdb.sql.catalog.residency import PlacementRules
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import CannotConnectNow
from pydistdb.sql.exec.change_run import run_change
from pydistdb.sql.exec.dealing import TOPIC
from pydistdb.sql.exec.exchange import ExchangeServer
from pydistdb.sql.exec.fragment_run import run_fragment
from pydistdb.sql.functions.system import release
from pydistdb.sql.kv_errors import database_error
from pydistdb.sql.resources import FOLDER_NAME as resources_folder
from pydistdb.sql.resources import NodeResources
from pydistdb.sql.session import login
from pydistdb.sql.session.environment import Environment
from pydistdb.sql.session.session import ClientSession
from pydistdb.tasks import sleep
from pydistdb_storage.errors import StorageError
from pydistdb_storage.logged_engine import LoggedEngine

from pydistdb_server import endpoints, introspection, logs
from pydistdb_server.authentication import Authentication, verifier_of
from pydistdb_server.clients import ClientRegistry
from pydistdb_server.config import Address, NodeConfig
from pydistdb_server.connection import ClientConnection
from pydistdb_server.console.site import Site
from pydistdb_server.http import HttpServer
from pydistdb_server.listener import Listener
from pydistdb_server.log_committer import LogCommitter
from pydistdb_server.loop import ServingLoop
from pydistdb_server.rpc import RpcTransport
from pydistdb_server.rpc_peer import RpcIdentity

DRAIN_SECONDS = 3.0
LEASE_TRANSFER_SECONDS = 2.0
MAINTENANCE_INTERVAL_NS = 1_000_000_000
CATALOG_RETRY_NS = 200_000_000

log = logging.getLogger("pydistdb.server")


class StartFailed(Exception):
    """The node cannot run; the message says why."""


class Node:
    """One node process's parts; ``start`` fills in what needs an identity."""

    store: Store
    gateway: Gateway
    catalog: CatalogStore
    environment: Environment
    clients: ClientRegistry

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.loop = ServingLoop()
        self.ready = False
        self.stopping = False
        self.exit_status = 0
        self._listeners: list[Listener] = []
        self.version = release()
        self.started_seconds = 0.0
        self._http: HttpServer | None = None
        try:
            self.engine = LoggedEngine(config.store)
        except StorageError as error:
            raise StartFailed(f"cannot open the store {config.store}: {error}") from error
        self.committer = LogCommitter(self.engine, self.loop)
        self.clock = HybridClock(lambda: time.time_ns() // 1_000, config.max_clock_offset_ns)
        self.versions = ClusterVersion(supported_versions())
        self.identity = RpcIdentity(name=config.node_name, versions=self.versions)
        self.transport = RpcTransport(self.loop, self.clock, self.identity)
        self.transport.turned_away = self._turned_away

    # ------------------------------------------------------------------------------------------ starting

    async def start(self) -> None:
        """Bring the node up to the point where it serves."""
        config = self.config
        if config.http_listen is not None:
            self._http = HttpServer(self.loop, endpoints.routes(self), {})
            self._listen(config.http_listen, self._http.accept)
        addresses = NodeAddresses(
            config.advertised(config.rpc_listen) or config.node_name,
            config.advertised(config.listen),
            config.advertised(config.http_listen),
            config.locality,
        )
        if config.rpc_listen is not None:
            self._listen(config.rpc_listen, self.transport.accept)
        await self._identify(addresses)
        self._open_store(addresses)
        await self._open_catalog()
        self._serve_clients()
        self._maintain()

    async def _identify(self, addresses: NodeAddresses) -> None:
        """Find out who this node is, making it somebody if its store is empty."""
        config = self.config
        identity = open_identity(self.engine)
        if identity is None:
            if config.join:
                seeds = [str(seed) for seed in config.join]
                nonce = secrets.token_bytes(16)
                log.info("joining the cluster through %s", ", ".join(seeds))
                await join(
                    self.engine,
                    self.loop,
                    self.transport,
                    seeds,
                    config.node_name,
                    addresses,
                    nonce,
                    supported=self.versions.supported,
                    wanted=config.node_id,
                )
            else:
                cluster_id = secrets.token_bytes(16)
                factor, supported = config.replication_factor, self.versions.supported
                bootstrap(self.engine, self.clock, cluster_id, config.node_name, addresses, factor, supported)
                log.info("made a new cluster, %s", cluster_id.hex())
            identity = open_identity(self.engine)
            assert identity is not None
        try:
            self.versions.load(self.engine)
        except VersionConflict as error:
            raise StartFailed(f"{config.store}: {error}") from error
        self.node_identity = identity
        self.identity.cluster_id = identity.cluster_id
        self.identity.node_id = identity.node_id
        self.identity.incarnation = identity.incarnation
        self.identity.name = identity.name

    def _open_store(self, addresses: NodeAddresses) -> None:
        rand = random.SystemRandom()
        self.store = Store(
            self.node_identity,
            self.engine,
            self.loop,
            self.clock,
            self.transport,
            self.committer,
            rand.randint,
            StoreConfig(garbage_ttl_seconds=self.config.gc_ttl_ns / 1e9, closed_ns=self.config.closed_interval_ns),
            addresses,
            self.versions,
        )
        self.store.on_fatal = self._fatal
        self.gateway = Gateway(self.store)
        self.gateway.load.cpu_ns = time.process_time_ns
        self.resources = NodeResources(self.config.max_sql_memory_bytes, self.config.store / resources_folder)
        self.gateway.server.fragments.start = partial(run_fragment, node=self.resources)
        self.gateway.server.changes.start = run_change
        self.gateway.server.fragments.deliver = lambda node, data: self.gateway.ask(node, TOPIC, data)
        self.gateway.leases.threshold = lambda: self.store.garbage.threshold
        self.operations = Operations(self.store, self.gateway, self.version, self.disk_space)
        self.transport.handler = self.store.handle
        self.transport.receive_raft = self.store.receive_raft
        self.store.start()
        self.gateway.start()
        self.operations.reshaper.start()

    @property
    def http_requests(self) -> int:
        return 0 if self._http is None else self._http.requests

    def disk_space(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self.config.store)
        return usage.free, usage.total

    async def _open_catalog(self) -> None:
        """Load the catalog; that waits until the range that holds it has a leader."""
        self.catalog = CatalogStore(self.gateway, self.loop)
        told_ns = self.loop.now_ns()
        while True:
            try:
                await self.catalog.start()
                return
            except KVError as error:
                if self.loop.now_ns() - told_ns > 2_000_000_000:
                    told_ns = self.loop.now_ns()
                    log.warning("waiting for the catalog's range: %s", error)
                await sleep(self.loop, CATALOG_RETRY_NS)

    def _serve_clients(self) -> None:
        config = self.config
        self.environment = Environment(self.gateway, self.loop, self.catalog, resources=self.resources)
        self.environment.operations = self.operations
        self.gateway.on_broadcast(TOPIC, ExchangeServer(self.gateway, self.loop, self.resources).handle)
        self.store.queue.rules = PlacementRules(self.catalog)
        self.environment.sweeper.start()
        self.environment.auto_analyze.start()
        self.clients = ClientRegistry(self.node_identity.node_id, self._open_session, config.max_connections)
        self.environment.cancel_backend = self.clients.cancel_backend
        self.environment.terminate_backend = self.clients.terminate_backend
        self.environment.end_backend = self.clients.end_backend
        if config.auth == "scram-sha-256":
            self.clients.authenticate = self._authenticate
        introspection.register(self)
        if config.log_statements:
            self.environment.log_statement = _log_statement
        listener = self._listen(
            config.listen, lambda sock, peer: _connect(ClientConnection(self.loop, sock, self.clients, peer))
        )
        if self._http is not None:
            routes, posts = Site(self).routes()
            self._http.routes.update(routes)
            self._http.posts.update(posts)
        self.ready = True
        self.started_seconds = time.time()
        host, port = config.advertise_host or config.listen.host, listener.port
        address = Address("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)
        print(f"{config.node_name} (node {self.node_identity.node_id}) is ready. Connect with:", flush=True)
        print(f'  psql "postgresql://postgres@{address}/postgres"', flush=True)

    def _listen(self, address: Address, accepted: Callable[..., None]) -> Listener:
        try:
            listener = Listener(self.loop, address.host, address.port, accepted)
        except OSError as error:
            raise StartFailed(f"cannot listen on {address}: {error.strerror or error}") from error
        self._listeners.append(listener)
        return listener

    async def _authenticate(self, user: str) -> Authentication:
        """What a client has to prove that says it is ``user``."""
        await self.catalog.ensure_fresh()
        cluster = self.node_identity.cluster_id
        return Authentication(user, verifier_of(self.catalog.state.roles, user, now_us(), str(cluster)))

    async def _open_session(self, client: ClientConnection, parameters: dict[str, str]) -> Session:
        try:
            await self.catalog.ensure_fresh()
            await login.check_limits(self.environment, client.user, client.database)
            return open_session(self.environment, client, parameters)
        except (KVError, StorageError) as error:
            raise database_error(error) from error

    def _maintain(self) -> None:
        if not self.stopping:
            self.engine.maintain()
            self.loop.call_at(self.loop.now_ns() + MAINTENANCE_INTERVAL_NS, self._maintain)

    def _fatal(self, error: BaseException) -> None:
        """The store cannot go on: it must not serve what it may not hold."""
        log.critical("the node stops: %s", error)
        print(f"the node stops: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        self.exit_status = 2
        self.loop.stop()

    def _turned_away(self, reason: str) -> None:
        log.critical("the node stops: %s", reason)
        print(f"proddb: {reason}", file=sys.stderr, flush=True)
        self.exit_status = 1
        self.loop.stop()

    # ------------------------------------------------------------------------------------------ stopping

    async def stop(self) -> None:
        """Stop cleanly; see the module's introduction."""
        if self.stopping:
            self.loop.stop()
            return
        self.stopping = True
        print(f"{self.config.node_name} is stopping", flush=True)
        if self.ready:
            await self._stop_serving()
        self.loop.stop()

    async def _stop_serving(self) -> None:
        self._listeners[-1].close()
        clients = self.clients
        clients.refusing = CannotConnectNow("the database system is shutting down")
        for client in list(clients.clients.values()):
            if not client.is_busy:
                client.shut_down()
        await self._until(lambda: not clients.clients, DRAIN_SECONDS, self._shut_idle_clients)
        clients.shut_down()
        self.environment.sweeper.stop()
        self.environment.auto_analyze.stop()
        self.catalog.stop()
        if len(self.store.live_nodes()) > 1:
            self.store.drain()
            await self._until(lambda: not self.store.leased_replicas(), LEASE_TRANSFER_SECONDS, lambda: None)
        self.gateway.stop()
        self.operations.reshaper.stop()

    def _shut_idle_clients(self) -> None:
        for client in list(self.clients.clients.values()):
            if not client.is_busy:
                client.shut_down()

    async def _until(self, reached: Callable[[], bool], seconds: float, step: Callable[[], None]) -> None:
        deadline_ns = self.loop.now_ns() + int(seconds * 1e9)
        while not reached() and self.loop.now_ns() < deadline_ns:
            await sleep(self.loop, 20_000_000)
            step()

    def close(self) -> None:
        """Give everything back, after the loop has ended."""
        for listener in self._listeners:
            listener.close()
        if self._http is not None:
            self._http.close()
        self.transport.close()
        if hasattr(self, "store") and not self.store.stopped:
            self.store.stop()
        self.committer.close()
        self.engine.close()
        self.loop.close()


def supported_versions() -> Supported:
    """The cluster versions that this release knows; tests have it play another one."""
    played = os.environ.get("PYDISTDB_TEST_VERSIONS", "")
    return parse_supported(played) if played else THIS_RELEASE


def open_session(environment: Environment, client: ClientConnection, parameters: dict[str, str]) -> ClientSession:
    """The session of a client that has sent its startup packet."""
    startup = {
        name: value for name, value in parameters.items() if name not in ("user", "database", "options", "replication")
    }
    startup.update(_startup_options(parameters.get("options", "")))
    return ClientSession(
        environment,
        client.user,
        client.database,
        startup,
        client.process_id,
        client.sink.parameter_status,
        client.peer,
        client.sink.notice,
    )


def _startup_options(text: str) -> dict[str, str]:
    """``-c name=value`` and ``--name=value`` of the startup packet's options; backslash escapes a blank."""
    words = [word.replace("\0", " ") for word in text.replace("\\ ", "\0").split()]
    options: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-c" and position < len(words):
            word = words[position]
            position += 1
        elif word.startswith("-c"):
            word = word[2:]
        elif word.startswith("--"):
            word = word[2:].replace("-", "_")
        name, separator, value = word.partition("=")
        if separator:
            options[name.replace("-", "_")] = value
    return options


def _connect(connection: ClientConnection) -> None:
    """A connection lives by its registration with the loop."""


def _log_statement(user: str, text: str, duration_ns: int) -> None:
    log.info("statement", extra={"fields": {"user": user, "duration_ms": duration_ns / 1e6, "statement": text}})


def run(config: NodeConfig) -> int:
    """Run a node until it is told to stop; returns the process's exit status."""
    logs.configure(os.environ.get("PYDISTDB_LOG", "INFO"), config.log_format, config.node_name)
    try:
        node = Node(config)
    except StartFailed as error:
        print(f"proddb: {error}", file=sys.stderr)
        return 1
    # What is loaded by now stays: keep the collector off it, and let it look less often at what statements allocate.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        trio.run(_run, node, restrict_keyboard_interrupt_to_checkpoints=True)
    finally:
        node.close()
    return node.exit_status


async def _run(node: Node) -> None:
    loop = node.loop
    starting = loop.spawn(node.start(), "start")

    def started(_: object) -> None:
        error = starting.completion.error()
        if error is not None:
            if isinstance(error, (StartFailed, JoinFailed, KVError, StorageError)):
                print(f"proddb: {error}", file=sys.stderr, flush=True)
            else:
                log.critical("starting failed", exc_info=(type(error), error, error.__traceback__))
            node.exit_status = 1
            loop.stop()

    starting.completion.on_done(started)
    with _stopping_on_signals(node):
        await loop.run(alone=True)


@contextlib.contextmanager
def _stopping_on_signals(node: Node) -> Iterator[None]:
    def told(_number: int, _frame: object) -> None:
        node.loop.call_from_thread(lambda: _stop(node))

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(node: Node) -> None:
    node.loop.spawn(node.stop(), "stop")
