// Everything between a session and its agent: driver and launcher, the runner's service, the broker, and the reconciler.
import type { IncomingMessage } from "node:http";
import { join } from "node:path";
import { createValidateInterceptor } from "@connectrpc/validate";
import { RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { createEgressNotices } from "../broker/egress-notices.ts";
import { createEgressProxy } from "../broker/egress-proxy.ts";
import { createLedger } from "../broker/ledger.ts";
import { createMcpGateway } from "../broker/mcp-gateway.ts";
import { createServerFinder } from "../broker/mcp-servers.ts";
import { createModelGateway } from "../broker/model-gateway.ts";
import { createOutbound } from "../broker/outbound.ts";
import { readPriceTable } from "../broker/prices.ts";
import { createProviderNotices } from "../broker/provider-notices.ts";
import { findAllowedHosts } from "../broker/store.ts";
import type { Config } from "../config.ts";
import { createUnavailableInterceptor } from "../db/unavailable-interceptor.ts";
import { peekProtocol } from "../http/preface.ts";
import type { Log } from "../log.ts";
import { applyToBank, readBank } from "../memory/sessions.ts";
import { createLauncher, type Launcher } from "../runners/launcher.ts";
import { createLeaseFinder, createLeaseInterceptor } from "../runners/leases.ts";
import { createRunnerListener } from "../runners/listener.ts";
import { createReconciler, type Reconciler } from "../runners/reconciler.ts";
import { parkAfterMs } from "../runners/rules.ts";
import { createRunnerServer, type RunnerServer } from "../runners/server.ts";
import { createRunnerService } from "../runners/service.ts";
import { createSnapshotDoor, createSnapshotReader } from "../runners/snapshot-door.ts";
import { createSnapshotCalls } from "../runners/snapshots.ts";
import { createSpaceWatch } from "../runners/space.ts";
import { createStandby, type Standby } from "../runners/standby.ts";
import { findByLeaseHash } from "../runners/store.ts";
import { selectDriver } from "../sandbox/select.ts";
import { deleteErased } from "../sessions/store.ts";
import type { Closers } from "./closers.ts";
import type { SessionsCore } from "./sessions-core.ts";
import type { Storage } from "./storage.ts";

type Surroundings = { config: Config; log: Log; storage: Storage; core: SessionsCore; closers: Closers };

/** Parts that call one another; each is asked only when something runs, and by then all are there. */
type Late = { reconciler: Reconciler; standby: Standby; server: RunnerServer };

export async function openSandboxes(surroundings: Surroundings) {
  const { config, log, storage, closers } = surroundings;
  const late = {} as Late;
  const broker = createBroker(surroundings, late);
  late.server = createServer(surroundings, broker, late);
  closers.push(late.server.close);
  const listener = createRunnerListener(late.server.accept, log);
  closers.push(listener.closeAll);
  const driver = await selectDriver({ sandbox: config.sandbox, stateDirectory: join(config.dataDirectory, "driver"), log });
  const launcher = createLauncher({
    driver,
    listener,
    installation: storage.installation,
    dataDirectory: config.dataDirectory,
    runtimeDirectory: config.runtimeDirectory,
    programs: { node: process.execPath, runner: config.runnerPath, claude: config.claudePath },
    limits: config.sandboxLimits,
    space: config.sandboxSpace,
    onCpusFailed: (error) => log.warn({ err: error }, "the processor limit of a sandbox was not changed"),
  });
  late.standby = createStandby({ launcher, log, size: config.standbySandboxes });
  closers.push(late.standby.close);
  late.reconciler = createReconciler({
    ...reconcilerSettings(config),
    standby: late.standby,
    db: storage.db,
    journal: surroundings.core.journal,
    launcher,
    hashToken: storage.hashToken,
    log,
    host: storage.installation,
    settled: broker.ledger.settled,
    eraseRecord: (session) => eraseRecord(storage, session.id),
  });
  closers.push(late.reconciler.stop);
  surroundings.core.carryOut(late.reconciler.poke);
  if (!driver.enforced.disk) closers.push(createSpaceWatchOver(surroundings, late.reconciler, launcher).close);
  return { reconciler: late.reconciler, gaps: driver.enforced.reason ?? "" };
}

/** What nobody could find any more goes first; and with it what a process that died had not named yet. */
async function eraseRecord({ db, archives }: Storage, sessionId: string): Promise<void> {
  for await (const archive of archives.list(sessionId)) await archives.remove(archive);
  await deleteErased(db, sessionId);
}

function createSpaceWatchOver({ storage, core, log }: Surroundings, reconciler: Reconciler, launcher: Launcher) {
  return createSpaceWatch({
    db: storage.db,
    journal: core.journal,
    log,
    host: storage.installation,
    directoriesOf: launcher.directoriesOf,
    poke: reconciler.poke,
    intervalMs: 30_000,
  });
}

function reconcilerSettings(config: Config) {
  return {
    startupTimeoutMs: config.startupTimeoutMs,
    stepTries: config.stepTries,
    parkAfterMs: config.parkAfterMs ?? parkAfterMs,
    endGraceMs: 8_000,
    maxRestarts: 3,
    restartWindowMs: 600_000,
    approvalTimeoutMs: config.approvalTimeoutMs,
    reconnectMs: config.heartbeatStaleMs,
    intervalMs: 1_000,
    idleMs: config.idleHibernateMs,
    archiveTimeoutMs: config.archiveTimeoutMs,
  };
}

function createBroker({ config, log, storage, core, closers }: Surroundings, late: Late) {
  const ledger = createLedger({
    db: storage.db,
    journal: core.journal,
    prices: readPriceTable(config.priceTable),
    hashToken: storage.hashToken,
    live: core.live,
    poke: (sessionId) => late.reconciler.poke(sessionId),
  });
  const gateway = createModelGateway({
    ...ledger,
    baseUrl: config.anthropicBaseUrl,
    openCredential: core.credentials.open,
    boxOf: (request) => late.server.boxOf(request),
    patience: core.patience,
    tell: createProviderNotices({ journal: core.journal, log }),
    silenceMs: config.modelSilenceMs,
    log,
  });
  const outbound = createOutbound({ allowPrivate: config.allowPrivate });
  const callers = { findPhantom: ledger.findPhantom, boxOf: (request: IncomingMessage) => late.server.boxOf(request), log };
  const mcp = createMcpGateway({ ...callers, dial: outbound.dial, findServer: createServerFinder(storage) });
  const egress = createEgressProxy({
    ...callers,
    outbound,
    allowedHosts: ({ sessionId }) => findAllowedHosts(storage.db, sessionId),
    onDecision: createEgressNotices({ journal: core.journal, log }),
  });
  closers.push(ledger.close, gateway.close, mcp.close, egress.close);
  return { ledger, gateway, mcp, egress };
}

function createServer(
  { config, log, storage, core }: Surroundings,
  { ledger, gateway, mcp, egress }: ReturnType<typeof createBroker>,
  late: Late,
) {
  const { db, hashToken, userVault } = storage;
  const service = createRunnerService({
    db,
    journal: core.journal,
    feeds: core.feeds,
    commandStreams: core.commandStreams,
    hashToken,
    userVault,
    decide: core.verdict,
    memory: { read: readBank, apply: applyToBank },
    snapshots: createSnapshotCalls({
      db,
      journal: core.journal,
      archives: storage.archives,
      maxBytes: config.snapshotBytes,
      kept: config.snapshotsKept,
      maxSessionMs: config.maxSessionMs,
      poke: (sessionId) => late.reconciler.poke(sessionId),
      onError: (error, about) => log.warn({ err: error }, about),
    }),
    onDetached: (lease, exit) => late.reconciler.detached(lease, exit),
    settled: ledger.settled,
    staleMs: config.heartbeatStaleMs,
    maxSessionMs: config.maxSessionMs,
    heartbeatMs: config.heartbeatMs,
    assigned: (attachToken, signal) => late.standby.assigned(attachToken, signal),
  });
  const findLease = createLeaseFinder({ hashToken, findLease: (lease) => findByLeaseHash(db, lease) });
  const read = createSnapshotReader({ db, archives: storage.archives });
  return createRunnerServer({
    routes: (router) => router.service(RunnerService, service),
    interceptors: [createUnavailableInterceptor(), createLeaseInterceptor(findLease), createValidateInterceptor()],
    peekProtocol,
    snapshots: createSnapshotDoor({ findLease, read, boxOf: (request) => late.server.boxOf(request), log }),
    doors: { model: gateway.handle, mcp: mcp.handle, proxy: egress.handleRequest, connect: egress.handleConnect },
    log,
  });
}
