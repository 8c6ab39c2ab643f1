// The composition root: with the folder `assembly`, the only place that constructs things. Tests build the same app as production.
import { createValidateInterceptor } from "@connectrpc/validate";
import { type Closers, closeAll } from "./assembly/closers.ts";
import { openSandboxes } from "./assembly/sandboxes.ts";
import { createServices, publicServices } from "./assembly/services.ts";
import { openSessionsCore, type SessionsCore } from "./assembly/sessions-core.ts";
import { openStorage, type Storage } from "./assembly/storage.ts";
import { createSocketHandler } from "./channel/websocket/handler.ts";
import type { Config } from "./config.ts";
import { createUnavailableInterceptor, tellingUnavailable } from "./db/unavailable-interceptor.ts";
import { createLanding } from "./http/landing.ts";
import { createHttpServer } from "./http/server.ts";
import { createAuthorizationGate, createAuthorizationInterceptor, createAuthorizer } from "./identity/authorize.ts";
import { createDepartureInterceptor, createDepartures, type Departures } from "./identity/departures.ts";
import { untilExpiry } from "./identity/expiry.ts";
import { createLocalVerifier, type LocalIssuer, openLocalIssuer } from "./identity/local-issuer.ts";
import { createOidcIssuer } from "./identity/oidc.ts";
import type { User } from "./identity/principal.ts";
import { createUserDirectory, type UserDirectory } from "./identity/user-directory.ts";
import { createTokenVerifier } from "./identity/verify.ts";
import { requestEnd } from "./journal/ends.ts";
import { present } from "./journal/journal.ts";
import { isForgotten } from "./journal/rules.ts";
import { createFairShare, createFairShareInterceptor } from "./limits/fair-share.ts";
import type { Log } from "./log.ts";
import { createRemoval } from "./registration/removal.ts";
import { findRegistration, listDeparted } from "./registration/store.ts";
import { forgetOldRequestIds } from "./sessions/request-ids.ts";
import { enforceRetention, type RetentionDeps } from "./snapshots/retention.ts";

export type App = {
  url: string;
  issuer: LocalIssuer;
  /** What the machine does not let the sandbox enforce. */
  sandboxGaps: string;
  /** Drains and closes. Sandboxes live on for the next process. */
  close(): Promise<void>;
};

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
  const storage = await openStorage(config, log, closers);
  const issuer = await openLocalIssuer(config.dataDirectory);
  const core = await openSessionsCore(storage, config, log, closers);
  const { reconciler, gaps } = await openSandboxes({ config, log, storage, core, closers });
  const { authorize, directory } = createIdentity(config, log, storage, issuer);
  const departures = await openDepartures(storage, core, directory, log);
  const removal = createRemoval({ db: storage.db, log, intervalMs: 5_000 });
  closers.push(departures.close, removal.close);
  const whileAllowed = (user: User, signal: AbortSignal) => departures.until(user.userId, untilExpiry(user, signal));
  const { poke } = reconciler;
  const services = createServices({ config, log, storage, core, directory, departures, removal, whileAllowed, poke });
  const share = createFairShare(config.limits.callsAtOnce);
  const sockets = createSocketHandler({
    authorize,
    share,
    redeemTicket: services.redeemTicket,
    reader: core.reader,
    actions: services.actions,
    whileAllowed,
    log,
    limits: { messagesPerSecond: config.limits.socketMessagesPerSecond, messageBytes: config.limits.messageBytes },
  });
  const http = createHttpServer({
    services: publicServices,
    routes: services.routes,
    interceptors: [
      createUnavailableInterceptor(),
      createAuthorizationInterceptor(authorize),
      createDepartureInterceptor(directory.find),
      createFairShareInterceptor(share),
      createValidateInterceptor(),
    ],
    requestGate: createAuthorizationGate(authorize),
    limits: { requestBytes: config.limits.messageBytes },
    allowedOrigins: config.allowedOrigins,
    publicUrl: config.publicUrl?.origin,
    log,
    ready: storage.isReady,
    fallback: createLanding(),
    onUpgrade: sockets.onUpgrade,
    ...(config.tls ? { tls: config.tls } : {}),
    address: { host: config.host, port: config.port },
  });
  await reconciler.start();
  const retention: RetentionDeps = {
    ...storage,
    retentionMs: config.retentionMs,
    isOurs: config.s3 === undefined,
    end: async (sessionId, why) => {
      await core.journal.change(sessionId, present, (change) => {
        if (isForgotten(change.session, change.now, config.retentionMs)) requestEnd(change, "max_duration_exceeded", why);
      });
    },
  };
  closers.push(sweepHourly(log, () => Promise.all([forgetOldRequestIds(storage.db), services.sweep(), enforceRetention(retention)])));
  const { host, port } = await http.listen();
  closers.push(() => http.close(config.drainMs), sockets.close);
  return { url: config.publicUrl?.origin ?? urlOf(config, host, port), issuer, sandboxGaps: gaps, close: () => closeAll(closers) };
}

function createIdentity(config: Config, log: Log, { db }: Storage, issuer: LocalIssuer) {
  const directory = createUserDirectory(async (name, subject) => (await findRegistration(db, { issuer: name, subject }))?.userId);
  const oidc = config.oidcIssuers.map((setting) => createOidcIssuer(setting, { log }));
  const verify = createTokenVerifier([createLocalVerifier(issuer), ...oidc]);
  return { directory, authorize: tellingUnavailable(createAuthorizer({ verify, findUser: directory.find, publicServices: [] })) };
}

function openDepartures({ db, listener, vault }: Storage, core: SessionsCore, directory: UserDirectory, log: Log): Promise<Departures> {
  const forget = (userId: string): void => {
    directory.forgetAll();
    core.live.rung(undefined);
    core.credentials.forget(userId);
    vault.forget(userId);
  };
  return createDepartures({ db, listener, log, forget, findDeparted: (userIds) => listDeparted(db, userIds) });
}

function sweepHourly(log: Log, sweep: () => Promise<unknown>): () => void {
  const timer = setInterval(() => {
    sweep().catch((error: Error) => log.warn({ err: error }, "old rows not forgotten"));
  }, 3_600_000);
  return () => clearInterval(timer);
}

function urlOf(config: Config, host: string, port: number): string {
  return `${config.tls ? "https" : "http"}://${host.includes(":") ? `[${host}]` : host}:${port}`;
}
