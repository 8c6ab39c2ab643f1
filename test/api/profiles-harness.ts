import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createValidateInterceptor } from "@connectrpc/validate";
import { pino } from "pino";
import { ProfileService } from "../../gen/carrel/v1/profile_service_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { parsePattern } from "../../server/channel/permissions/pattern.ts";
import { connectDatabase } from "../../server/db/connect.ts";
import { notFound } from "../../server/errors.ts";
import { createHttpServer } from "../../server/http/server.ts";
import { createAuthorizationInterceptor, createAuthorizer, requireUser } from "../../server/identity/authorize.ts";
import { createLocalVerifier, openLocalIssuer } from "../../server/identity/local-issuer.ts";
import { createUserDirectory } from "../../server/identity/user-directory.ts";
import { createTokenVerifier } from "../../server/identity/verify.ts";
import { createProfileOpener } from "../../server/profiles/open.ts";
import { provisionDefaults } from "../../server/profiles/provision.ts";
import { createProfileService } from "../../server/profiles/service.ts";
import { type ProfileSettings, plainSettings } from "../../server/profiles/settings.ts";
import { createRegistrationService } from "../../server/registration/service.ts";
import { findRegistration } from "../../server/registration/store.ts";
import { once } from "../../server/sessions/request-ids.ts";
import { checkedName } from "../../server/sessions/rules.ts";
import { createRootKeyring } from "../../server/vault/keyring.ts";
import { createSodium } from "../../server/vault/sodium.ts";
import { createVaultStore } from "../../server/vault/store.ts";
import { createVault } from "../../server/vault/vault.ts";
import type { TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";

export type ProfileServer = Awaited<ReturnType<typeof serveProfiles>>;

/** A session that CaptureProfile finds, and what it runs with. */
export const capturable = {
  sessionId: `ses_${"c".repeat(32)}`,
  settings: {
    ...plainSettings,
    allowedTools: ["Read"],
    maxTurns: 9,
    environment: { CAPTURED: "planted-captured" },
  } satisfies ProfileSettings,
};

/** Profiles and registration on the real store and vault, behind the real port. */
export async function serveProfiles(database: TestDatabase, dataDirectory: string) {
  const { db, close: closeDatabase } = connectDatabase({ connection: database.connection, poolSize: 20, log: silentLog() });
  const sodium = await createSodium();
  const vault = createVault({ sodium, keyring: createRootKeyring(sodium, [sodium.random(32)]), store: createVaultStore(db) });
  const issuer = await openLocalIssuer(dataDirectory);
  const users = createUserDirectory(async (name, subject) => (await findRegistration(db, { issuer: name, subject }))?.userId);
  const userVault = (userId: string) => vault.forUser(userId);
  const settings = { provision: true };
  const authorize = createAuthorizer({
    verify: createTokenVerifier([createLocalVerifier(issuer)]),
    findUser: users.find,
    publicServices: [],
  });
  const registration = createRegistrationService({
    limitRegistration: () => Promise.resolve(),
    db,
    createUserKey: async (tx, userId) => {
      await vault.createUserKey(tx, userId);
      if (settings.provision) await provisionDefaults(tx, userId);
    },
    allowedDomains: [],
    findUser: users.find,
    onRegistered: users.forget,
    shredUserKey: (tx, userId) => vault.shredUser(tx, userId),
    onClosed: async ({ issuer, subject }, userId) => {
      users.forget(issuer, subject);
      vault.forget(userId);
    },
  });
  const profiles = createProfileService({
    db,
    userVault,
    once,
    checkedName,
    isPattern: (text) => parsePattern(text) !== undefined,
    limit: 10,
    userIdOf: (context) => requireUser(context).userId,
    async sessionSettings(_ownerId, sessionId) {
      if (sessionId !== capturable.sessionId) throw notFound("session");
      return capturable.settings;
    },
  });
  const server = createHttpServer({
    services: [RegistrationService, ProfileService],
    routes: (router) => router.service(RegistrationService, registration).service(ProfileService, profiles),
    interceptors: [createAuthorizationInterceptor(authorize), createValidateInterceptor()],
    allowedOrigins: [],
    log: pino({ level: "silent" }),
    ready: () => true,
    address: { host: "127.0.0.1", port: 0 },
  });
  const { port } = await server.listen();
  const url = `http://127.0.0.1:${port}`;

  /** Somebody registered, with a client of each kind. */
  async function person(email: string) {
    const token = await issuer.issueToken({ email, ttlMs: 600_000, operator: false });
    const headers = { authorization: `Bearer ${token}` };
    const transport = createConnectTransport({
      baseUrl: url,
      httpVersion: "2",
      interceptors: [
        (next) => (request) => {
          request.header.set("authorization", headers.authorization);
          return next(request);
        },
      ],
    });
    await createClient(RegistrationService, transport).register({});
    const userId = (await findRegistration(db, { issuer: "carrel", subject: email }))!.userId;
    return {
      userId,
      rpc: createClient(ProfileService, transport),
      /** One REST call; the body as it came. */
      async rest(method: string, path: string, body?: object) {
        const answer = await fetch(`${url}${path}`, {
          method,
          headers: { ...headers, ...(body ? { "content-type": "application/json" } : {}) },
          ...(body ? { body: JSON.stringify(body) } : {}),
        });
        return { status: answer.status, body: (await answer.json()) as RestAnswer };
      },
    };
  }

  return {
    settings,
    person,
    openProfile: createProfileOpener({ db, userVault }),
    async close() {
      await server.close(100);
      vault.close();
      await closeDatabase();
    },
  };
}

type RestProfile = Record<string, unknown> & { id: string; name: string; is_default: boolean; environment: Record<string, string> };

/** What any of the answers may hold. */
export type RestAnswer = {
  profile: RestProfile;
  profiles: RestProfile[];
  deleted: boolean;
  error: string;
  message: string;
  details: Record<string, unknown>;
};
