// The composition root: the only file that constructs things. Tests build the same app as production.
import { hash } from "node:crypto";
import { access, mkdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { JsonObject } from "@bufbuild/protobuf";
import type { ConnectRouter, HandlerContext } from "@connectrpc/connect";
import { createValidateInterceptor } from "@connectrpc/validate";
import { RunnerService } from "../gen/carrel/runner/v1/runner_service_pb.ts";
import { ChannelService } from "../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../gen/carrel/v1/credential_service_pb.ts";
import { MemoryService } from "../gen/carrel/v1/memory_service_pb.ts";
import { ProfileService } from "../gen/carrel/v1/profile_service_pb.ts";
import { RegistrationService } from "../gen/carrel/v1/registration_service_pb.ts";
import { SessionService } from "../gen/carrel/v1/session_service_pb.ts";
import { createBell } from "./bell.ts";
import { createLedger } from "./broker/ledger.ts";
import { createModelGateway } from "./broker/model-gateway.ts";
import { readPriceTable } from "./broker/prices.ts";
import { createChannelActions } from "./channel/actions.ts";
import { createChangedSessions } from "./channel/changed-sessions.ts";
import { derivePattern } from "./channel/permissions/derive.ts";
import { decide, patternMatches } from "./channel/permissions/engine.ts";
import { parsePattern } from "./channel/permissions/pattern.ts";
import { createChannelService } from "./channel/service.ts";
import { createSocketHandler } from "./channel/websocket/handler.ts";
import type { Config } from "./config.ts";
import { createOpenedCredentials } from "./credentials/opened.ts";
import { createCredentialService } from "./credentials/service.ts";
import { hasCredential } from "./credentials/store.ts";
import { connectDatabase, verifyDurability } from "./db/connect.ts";
import { startEmbeddedPostgres } from "./db/embedded.ts";
import { isServerUnavailable } from "./db/failures.ts";
import { createListener } from "./db/listen.ts";
import { migrateToLatest } from "./db/migrate.ts";
import { createUnavailableInterceptor, tellingUnavailable } from "./db/unavailable-interceptor.ts";
import { lockDirectory } from "./directory-lock.ts";
import { createLanding } from "./http/landing.ts";
import { peekProtocol } from "./http/preface.ts";
import { createHttpServer } from "./http/server.ts";
import { createAuthorizationGate, createAuthorizationInterceptor, createAuthorizer, requireUser } from "./identity/authorize.ts";
import { untilExpiry } from "./identity/expiry.ts";
import { createLocalVerifier, type LocalIssuer, openLocalIssuer } from "./identity/local-issuer.ts";
import { createOidcIssuer } from "./identity/oidc.ts";
import { createUserDirectory } from "./identity/user-directory.ts";
import { createTokenVerifier } from "./identity/verify.ts";
import { createFeeds } from "./journal/feed.ts";
import { createJournal } from "./journal/journal.ts";
import { pinnedSettings } from "./journal/pinned.ts";
import { createJournalReader } from "./journal/reader.ts";
import type { PermissionModeWord } from "./journal/session-view.ts";
import type { SessionRow } from "./journal/store.ts";
import { createRateLimiter } from "./limits/limiter.ts";
import type { Log } from "./log.ts";
import { createMemoryService } from "./memory/service.ts";
import { applyToBank, readBank } from "./memory/sessions.ts";
import { optionsMessage } from "./profiles/message.ts";
import { createProfileOpener } from "./profiles/open.ts";
import { createEffectiveSettings } from "./profiles/overrides.ts";
import { provisionDefaults } from "./profiles/provision.ts";
import { createProfileService } from "./profiles/service.ts";
import { createRegistrationService } from "./registration/service.ts";
import { findRegistration } from "./registration/store.ts";
import { createBells } from "./runners/bells.ts";
import { createLauncher } from "./runners/launcher.ts";
import { createLeaseInterceptor } from "./runners/leases.ts";
import { createRunnerListener } from "./runners/listener.ts";
import { createReconciler } from "./runners/reconciler.ts";
import { createRunnerServer } from "./runners/server.ts";
import { createRunnerService } from "./runners/service.ts";
import { createStandby } from "./runners/standby.ts";
import { findByLeaseHash } from "./runners/store.ts";
import { selectDriver } from "./sandbox/select.ts";
import { sessionMessage } from "./sessions/message.ts";
import { forgetOldRequestIds, once } from "./sessions/request-ids.ts";
import { checkedName } from "./sessions/rules.ts";
import { createSessionService, ownedBy } from "./sessions/service.ts";
import { listAliveOf, listOwned } from "./sessions/store.ts";
import { createRootKeyFile } from "./vault/key-file.ts";
import { readRootKeyring } from "./vault/keyring.ts";
import { createSodium } from "./vault/sodium.ts";
import { createVaultStore, listCanaries } from "./vault/store.ts";
import { createVault } from "./vault/vault.ts";

export type App = {
  url: string;
  issuer: LocalIssuer;
  /** What the machine does not let the sandbox enforce; undefined when everything is. */
  sandboxGaps: string | undefined;
  /** Drains and closes. Sandboxes live on for the next process. */
  close(): Promise<void>;
};

/** Run last in, first out; each is given its chance, and the first failure is reported. */
type Closers = (() => Promise<void> | void)[];

export async function createApp(config: Config, log: Log): Promise<App> {
  const closers: Closers = [];
  try {
    return await assemble(config, log, closers);
  } catch (error) {
    await closeAll(closers);
    throw error;
  }
}

async function assemble(config: Config, log: Log, closers: Closers): Promise<App> {
  await mkdir(config.dataDirectory, { recursive: true, mode: 0o700 });
  const installation = hash("sha256", config.dataDirectory).slice(0, 16);
  const lock = await lockDirectory(config.dataDirectory);
  closers.push(lock.release);
  await mkdir(config.runtimeDirectory, { recursive: true, mode: 0o700 });
  if (!(await isMemoryBacked(config.runtimeDirectory))) {
    log.warn(
      { directory: config.runtimeDirectory },
      "the runtime directory is on a disk: live conversations lie there in clear; set CARREL_RUNTIME_DIR to a tmpfs",
    );
  }
  const issuer = await openLocalIssuer(config.dataDirectory);
  const { db, keys, listener } = await openDatabase(config, log, closers);
  const { vault, keyring } = await openVault(config, keys, log, closers);
  const userVault = (userId: string) => vault.forUser(userId);
  const hashToken = (token: string) => keyring.hashToken(token);

  const verdict = (session: SessionRow, toolName: string, input: JsonObject) =>
    decide(
      {
        allowed: session.allowed_tools,
        denied: session.denied_tools,
        sessionPatterns: session.session_patterns,
        mode: session.permission_mode as PermissionModeWord,
      },
      toolName,
      input,
    );

  const feeds = createFeeds();
  const commandBells = createBells();
  const changed = createChangedSessions();
  const bell = await createBell({
    db,
    listener,
    log,
    onRing(sessionId, ownerId) {
      feeds.ring(sessionId);
      commandBells.ring(sessionId);
      if (sessionId && ownerId) changed.ring(ownerId, sessionId);
      else changed.ringAll();
    },
  });
  closers.push(bell.close);
  const journal = createJournal({
    db,
    userVault,
    feeds,
    onCommands: commandBells.ring,
    notify(sessionId, ownerId) {
      changed.ring(ownerId, sessionId);
      bell.ring(sessionId, ownerId);
    },
  });
  const reader = createJournalReader({ db, userVault, feeds });
  const credentials = createOpenedCredentials({ db, userVault });
  closers.push(() => credentials.close());

  const ledger = createLedger({
    db,
    journal,
    prices: readPriceTable(config.priceTable),
    hashToken,
    poke: (sessionId) => reconciler.poke(sessionId),
  });
  const gateway = createModelGateway({
    ...ledger,
    baseUrl: config.anthropicBaseUrl,
    openCredential: credentials.open,
    boxOf: (request) => runnerServer.boxOf(request),
    log,
  });
  closers.push(ledger.close, gateway.close);
  const runnerServer = createRunnerServer({
    routes: (router) =>
      router.service(
        RunnerService,
        createRunnerService({
          db,
          journal,
          feeds,
          commandBells,
          hashToken,
          userVault,
          decide: verdict,
          memory: { read: readBank, apply: applyToBank },
          onDetached: (lease, exit) => reconciler.detached(lease, exit),
          settled: ledger.settled,
          staleMs: config.heartbeatStaleMs,
          maxSessionMs: config.maxSessionMs,
          heartbeatMs: config.heartbeatMs,
          assigned: (attachToken, signal) => standby.assigned(attachToken, signal),
        }),
      ),
    interceptors: [
      createUnavailableInterceptor(),
      createLeaseInterceptor({ hashToken, findLease: (lease) => findByLeaseHash(db, lease) }),
      createValidateInterceptor(),
    ],
    peekProtocol,
    onModelRequest: gateway.handle,
    log,
  });
  closers.push(runnerServer.close);
  const runnerListener = createRunnerListener(runnerServer.accept, log);
  closers.push(runnerListener.closeAll);

  const driver = await selectDriver({ sandbox: config.sandbox, stateDirectory: join(config.dataDirectory, "driver"), log });
  const launcher = createLauncher({
    driver,
    listener: runnerListener,
    installation,
    dataDirectory: config.dataDirectory,
    runtimeDirectory: config.runtimeDirectory,
    programs: { node: process.execPath, runner: config.runnerPath, claude: config.claudePath },
    limits: config.sandboxLimits,
  });
  const standby = createStandby({ launcher, log, size: config.standbySandboxes });
  closers.push(standby.close);
  const reconciler = createReconciler({
    standby,
    db,
    journal,
    launcher,
    hashToken,
    log,
    host: installation,
    settled: ledger.settled,
    startupTimeoutMs: config.startupTimeoutMs,
    endGraceMs: 5_000,
    maxRestarts: 3,
    restartWindowMs: 600_000,
    reconnectMs: config.heartbeatStaleMs,
    intervalMs: 1_000,
  });
  closers.push(reconciler.stop);

  const limiter = createRateLimiter({ perMinute: config.limits.perMinute });
  const actions = createChannelActions({
    limitPrompt: limiter.prompt,
    db,
    journal,
    rules: { derive: derivePattern, matches: patternMatches, verdict },
    userVault,
    ownedBy,
    once,
  });
  const isPattern = (text: string) => parsePattern(text) !== undefined;
  const place = { region: config.region, demo: config.demo, showSettings: optionsMessage };
  const directory = createUserDirectory(async (name, subject) => (await findRegistration(db, { issuer: name, subject }))?.userId);
  const services = (router: ConnectRouter) => {
    router.service(
      RegistrationService,
      createRegistrationService({
        limitRegistration: (person) => limiter.registration(db, person),
        db,
        createUserKey: async (tx, userId) => {
          await vault.createUserKey(tx, userId);
          await provisionDefaults(tx, userId);
        },
        allowedDomains: config.allowedEmailDomains,
        onRegistered: directory.forget,
      }),
    );
    router.service(CredentialService, createCredentialService({ db, userVault, onChanged: credentials.forget }));
    router.service(
      SessionService,
      createSessionService({
        db,
        journal,
        userVault,
        userIdOf: (context) => requireUser(context).userId,
        hasCredential,
        effectiveSettings: createEffectiveSettings(createProfileOpener({ db, userVault }), isPattern),
        poke: reconciler.poke,
        announce(ownerId, sessionId) {
          changed.ring(ownerId, sessionId);
          bell.ring(sessionId, ownerId);
        },
        concurrentSessions: config.limits.concurrentSessions,
        host: installation,
        limitCreate: limiter.sessionCreate,
        place,
      }),
    );
    router.service(
      ProfileService,
      createProfileService({
        db,
        userVault,
        once,
        checkedName,
        isPattern,
        limit: config.limits.profiles,
        userIdOf: (context) => requireUser(context).userId,
        sessionSettings: async (ownerId, sessionId) => pinnedSettings(await userVault(ownerId), await reader.session(ownerId, sessionId)),
      }),
    );
    router.service(MemoryService, createMemoryService({ db, userVault, userIdOf: (context) => requireUser(context).userId }));
    router.service(
      ChannelService,
      createChannelService({
        db,
        actions,
        reader,
        changed,
        userVault,
        userOf: requireUser,
        streamSignal: (context: HandlerContext) => untilExpiry(requireUser(context), context.signal),
        sessionMessage: (row, vaultOfUser) => sessionMessage(row, vaultOfUser, place),
        listAliveOf: (ownerId) => listAliveOf(db, ownerId),
        listOwned: (ownerId, sessionIds) => listOwned(db, ownerId, sessionIds),
      }),
    );
  };
  const verify = createTokenVerifier([createLocalVerifier(issuer), ...config.oidcIssuers.map((oidc) => createOidcIssuer(oidc, { log }))]);
  const authorize = tellingUnavailable(createAuthorizer({ verify, findUser: directory.find, publicServices: [] }));
  const sockets = createSocketHandler({
    authorize,
    reader,
    actions,
    log,
    limits: { messagesPerSecond: config.limits.socketMessagesPerSecond, messageBytes: config.limits.messageBytes },
  });
  const http = createHttpServer({
    services: [RegistrationService, CredentialService, ProfileService, MemoryService, SessionService, ChannelService],
    routes: services,
    interceptors: [createUnavailableInterceptor(), createAuthorizationInterceptor(authorize), createValidateInterceptor()],
    requestGate: createAuthorizationGate(authorize),
    limits: { requestBytes: config.limits.messageBytes },
    allowedOrigins: config.allowedOrigins,
    publicUrl: config.publicUrl?.origin,
    log,
    ready: () => isReady(db),
    fallback: createLanding(),
    onUpgrade: sockets.onUpgrade,
    ...(config.tls ? { tls: config.tls } : {}),
    address: { host: config.host, port: config.port },
  });
  await reconciler.start();
  const sweep = setInterval(
    () =>
      Promise.all([forgetOldRequestIds(db), limiter.sweep(db)]).catch((error: Error) =>
        log.warn({ err: error }, "old request ids and limits not forgotten"),
      ),
    3_600_000,
  );
  closers.push(() => clearInterval(sweep));
  const { host, port } = await http.listen();
  closers.push(() => http.close(config.drainMs), sockets.close);
  return {
    url: config.publicUrl?.origin ?? `${config.tls ? "https" : "http"}://${host.includes(":") ? `[${host}]` : host}:${port}`,
    issuer,
    sandboxGaps: ["disk space is not limited", driver.enforced.reason].filter(Boolean).join("; "),
    close: () => closeAll(closers),
  };
}

async function openDatabase(config: Config, log: Log, closers: Closers) {
  const embedded = config.databaseUrl
    ? undefined
    : await startEmbeddedPostgres({
        dataDirectory: join(config.dataDirectory, "postgres"),
        socketDirectory: join(config.runtimeDirectory, "pg"),
        log,
      });
  if (embedded) closers.push(embedded.stop);
  const connection = config.databaseUrl ?? embedded!.connectionConfig;
  const onLost = () => {
    embedded?.ensureRunning().catch((error: Error) => log.error({ err: error }, "embedded Postgres does not come back"));
  };
  const { db, close } = connectDatabase({ connection, poolSize: config.databasePoolSize, log, onLost });
  closers.push(close);
  // Who waits for a key may hold a connection for work of its own, so keys come over connections that nobody can hold.
  const { db: keys, close: closeKeys } = connectDatabase({ connection, poolSize: 2, log, onLost });
  closers.push(closeKeys);
  await verifyDurability(db);
  await migrateToLatest(db);
  const listener = createListener({ connection, log, onLost });
  closers.push(listener.close);
  return { db, keys, listener };
}

type Database = Awaited<ReturnType<typeof openDatabase>>["db"];

async function openVault(config: Config, db: Database, log: Log, closers: Closers) {
  const sodium = await createSodium();
  const store = createVaultStore(db);
  // A new key is made only for a database that has never known one: a key that is missing must be found, not replaced.
  if ((await store.listCanaries()).length === 0 && !(await exists(config.rootKeyFile))) await createRootKeyFile(sodium, config.rootKeyFile);
  const keyring = await readRootKeyring(sodium, config.rootKeyFile);
  closers.push(() => keyring.close());
  const vault = createVault({
    sodium,
    keyring,
    store,
    audit: (event) => log.info({ audit: event.kind, user_id: event.userId, purpose: event.purpose }, "vault"),
  });
  await vault.verifyAtStart();
  closers.push(() => vault.close());
  return { vault, keyring };
}

const tmpfsMagic = 0x01021994;

async function isMemoryBacked(directory: string): Promise<boolean> {
  return (await statfs(directory)).type === tmpfsMagic;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

async function isReady(db: Database): Promise<boolean> {
  try {
    await listCanaries(db);
    return true;
  } catch (error) {
    if (isServerUnavailable(error)) return false;
    throw error;
  }
}

async function closeAll(closers: Closers): Promise<void> {
  let failure: unknown;
  for (const close of closers.splice(0).reverse()) {
    try {
      await close();
    } catch (error) {
      failure ??= error;
    }
  }
  if (failure) throw failure;
}
