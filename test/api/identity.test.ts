import { timestampMs } from "@bufbuild/protobuf/wkt";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { createValidateInterceptor } from "@connectrpc/validate";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { CredentialType } from "../../gen/carrel/v1/credential_pb.ts";
import { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { createOpenedCredentials, type OpenedCredentials } from "../../server/credentials/opened.ts";
import { createCredentialService } from "../../server/credentials/service.ts";
import { hasCredential } from "../../server/credentials/store.ts";
import { createAuthorizationInterceptor, createAuthorizer } from "../../server/identity/authorize.ts";
import { createLocalVerifier, openLocalIssuer } from "../../server/identity/local-issuer.ts";
import { createUserDirectory } from "../../server/identity/user-directory.ts";
import { createTokenVerifier } from "../../server/identity/verify.ts";
import { createRegistrationService } from "../../server/registration/service.ts";
import { closeAccount, findRegistration } from "../../server/registration/store.ts";
import { VaultError } from "../../server/vault/errors.ts";
import { createRootKeyring } from "../../server/vault/keyring.ts";
import { createSodium } from "../../server/vault/sodium.ts";
import { createVaultStore } from "../../server/vault/store.ts";
import { createVault } from "../../server/vault/vault.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { outcomeOf } from "../unit/identity/problem-of.ts";

const KEY = "sk-ant-api03-planted-secret-0123456789";
const dataDir = makeTemporaryDirectory("identity");
let database: TestDatabase;
let server: Awaited<ReturnType<typeof serve>>;

beforeAll(async () => {
  database = await createTestDatabase();
  server = await serve();
});
afterEach(() => {
  server.settings.allowedDomains.length = 0;
  server.settings.failKeys = false;
});
afterAll(async () => {
  server.opened.close();
  await database.drop();
  removeDirectory(dataDir);
});

/** Registration and credentials on the real store and vault, called through the router as the server does. */
async function serve() {
  const { db } = database;
  const sodium = await createSodium();
  const keyring = createRootKeyring(sodium, [sodium.random(32)]);
  const vault = createVault({ sodium, keyring, store: createVaultStore(db) });
  const issuer = await openLocalIssuer(dataDir);
  const users = createUserDirectory(async (name, subject) => (await findRegistration(db, { issuer: name, subject }))?.userId);
  const userVault = (userId: string) => vault.forUser(userId);
  const opened: OpenedCredentials = createOpenedCredentials({ db, userVault });
  const settings = { allowedDomains: [] as string[], failKeys: false, told: [] as string[] };
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
      if (settings.failKeys) throw new Error("planted fault");
    },
    allowedDomains: settings.allowedDomains,
    findUser: users.find,
    onRegistered: users.forget,
    shredUserKey: (tx, userId) => vault.shredUser(tx, userId),
    onClosed: async ({ issuer, subject }, userId) => {
      users.forget(issuer, subject);
      vault.forget(userId);
      settings.told.push(userId);
    },
  });
  const transport = createRouterTransport(
    (router) =>
      router
        .service(RegistrationService, registration)
        .service(CredentialService, createCredentialService({ db, userVault, onChanged: opened.forget })),
    { router: { interceptors: [createAuthorizationInterceptor(authorize), createValidateInterceptor()] } },
  );
  return { transport, issuer, opened, settings };
}

async function person(email: string) {
  const token = await server.issuer.issueToken({ email, ttlMs: 60_000, operator: false });
  const options = { headers: { authorization: `Bearer ${token}` } };
  const registration = createClient(RegistrationService, server.transport);
  const credentials = createClient(CredentialService, server.transport);
  return {
    register: () => registration.register({}, options),
    leave: () => registration.deregister({}, options),
    setKey: (apiKey: string) => credentials.setApiKey({ apiKey }, options),
    status: () => credentials.getCredentialStatus({}, options),
    remove: () => credentials.deleteCredential({}, options),
    userId: async () => (await findRegistration(database.db, { issuer: "carrel", subject: email }))?.userId ?? "",
  };
}

async function registeredPerson(email: string) {
  const somebody = await person(email);
  await somebody.register();
  return { ...somebody, userId: await somebody.userId() };
}

async function openedSecret(userId: string): Promise<string | undefined> {
  const credential = await server.opened.open(userId);
  const text = credential?.secret.toString();
  credential?.release();
  expect(credential?.secret.every((byte) => byte === 0) ?? true).toBe(true);
  return text;
}

async function countUsers(email: string): Promise<number> {
  return (await database.db.selectFrom("app_user").select("id").where("subject", "=", email).execute()).length;
}

describe("registration", () => {
  it("opens everything else, once, with the first date ever after", async () => {
    const somebody = await person("first@example.com");
    expect(await outcomeOf(somebody.status())).toBe("NOT_REGISTERED");
    const first = await somebody.register();
    const second = await somebody.register();
    expect(first.registered && second.registered).toBe(true);
    expect(timestampMs(second.registeredAt!)).toBe(timestampMs(first.registeredAt!));
    expect(Math.abs(timestampMs(first.registeredAt!) - Date.now())).toBeLessThan(60_000);
    expect(await outcomeOf(somebody.status())).toBe("accepted");
  });

  it("that another server has closed meanwhile is forgotten by this one when it is closed again", async () => {
    const somebody = await registeredPerson("closed@example.com");
    await somebody.status();
    await closeAccount(database.db, { issuer: "carrel", subject: "closed@example.com" }, async () => undefined);
    await somebody.leave();
    expect(server.settings.told).toEqual([somebody.userId]);
    expect(await outcomeOf(somebody.status())).toBe("NOT_REGISTERED");
  });

  it("of one person twenty times at once makes one user with one data key", async () => {
    const somebody = await person("many@example.com");
    const answers = await Promise.all(Array.from({ length: 20 }, () => somebody.register()));
    expect(new Set(answers.map((answer) => timestampMs(answer.registeredAt!))).size).toBe(1);
    expect(await countUsers("many@example.com")).toBe(1);
    const keys = await database.db
      .selectFrom("user_key")
      .select("version")
      .where("user_id", "=", await somebody.userId())
      .execute();
    expect(keys).toHaveLength(1);
  });

  it("leaves nothing behind when the data key cannot be made", async () => {
    const somebody = await person("unlucky@example.com");
    server.settings.failKeys = true;
    await expect(somebody.register()).rejects.toThrow();
    expect(await countUsers("unlucky@example.com")).toBe(0);
    server.settings.failKeys = false;
    expect((await somebody.register()).registered).toBe(true);
  });

  it("refuses other domains, but nobody who was here before", async () => {
    const early = await registeredPerson("early@evil.example");
    server.settings.allowedDomains.push("example.com");
    expect(await outcomeOf((await person("late@evil.example")).register())).toBe("EMAIL_DOMAIN_NOT_ALLOWED");
    expect(await countUsers("late@evil.example")).toBe(0);
    expect(await outcomeOf(early.register())).toBe("accepted");
    expect(await outcomeOf((await person("late@Example.com")).register())).toBe("accepted");
  });
});

describe("a credential", () => {
  it("is stored, replaced, shown without its secret, and removed", async () => {
    const somebody = await registeredPerson("keys@example.com");
    expect(await somebody.status()).toMatchObject({ hasCredentials: false, credentialType: CredentialType.UNSPECIFIED });
    expect((await somebody.status()).createdAt).toBeUndefined();
    expect((await somebody.setKey(KEY)).success).toBe(true);
    const status = await somebody.status();
    expect(status).toMatchObject({ hasCredentials: true, credentialType: CredentialType.API_KEY });
    expect(await openedSecret(somebody.userId)).toBe(KEY);
    await somebody.setKey(`${KEY}-2`);
    expect(timestampMs((await somebody.status()).createdAt!)).toBeGreaterThanOrEqual(timestampMs(status.createdAt!));
    expect(await openedSecret(somebody.userId)).toBe(`${KEY}-2`);
    expect(await hasCredential(database.db, somebody.userId)).toBe(true);
    expect((await somebody.remove()).success).toBe(true);
    expect((await somebody.remove()).success).toBe(true);
    expect(await openedSecret(somebody.userId)).toBeUndefined();
    expect(await hasCredential(database.db, somebody.userId)).toBe(false);
    expect((await somebody.status()).hasCredentials).toBe(false);
  });

  it.each([
    "",
    "sk-ant-",
    "sk-proj-0123456789",
    "sk-ant-with space",
    "sk-ant-nul\0",
    "sk-ant-new\nline",
    `sk-ant-${"x".repeat(1_100)}`,
    "sk-ant-carrel-phantom",
  ])("is not stored when it is %j", async (apiKey) => {
    const somebody = await registeredPerson("bad-keys@example.com");
    await expect(somebody.setKey(apiKey)).rejects.toThrow(/invalid_argument/);
    expect((await somebody.status()).hasCredentials).toBe(false);
  });

  it("is one whole key after twenty were stored at once", async () => {
    const somebody = await registeredPerson("busy@example.com");
    const keys = Array.from({ length: 20 }, (_, index) => `${KEY}-${index}`);
    await Promise.all(keys.map((key) => somebody.setKey(key)));
    expect(keys).toContain(await openedSecret(somebody.userId));
    const row = await database.db
      .selectFrom("credential")
      .select("generation")
      .where("user_id", "=", somebody.userId)
      .executeTakeFirstOrThrow();
    expect(row.generation).toBe(20);
  });

  it("of one person is not there for another, also when the rows are swapped", async () => {
    const [alice, mallory] = await Promise.all([registeredPerson("alice@example.com"), registeredPerson("mallory@example.com")]);
    await alice.setKey(KEY);
    expect((await mallory.status()).hasCredentials).toBe(false);
    await mallory.setKey(`${KEY}-own`);
    const stolen = await database.db
      .selectFrom("credential")
      .select("envelope")
      .where("user_id", "=", alice.userId)
      .executeTakeFirstOrThrow();
    await database.db.updateTable("credential").set({ envelope: stolen.envelope }).where("user_id", "=", mallory.userId).execute();
    await expect(server.opened.open(mallory.userId)).rejects.toBeInstanceOf(VaultError);
  });

  it("does not open with the envelope it had before it was replaced", async () => {
    const somebody = await registeredPerson("replay@example.com");
    await somebody.setKey(KEY);
    const old = await database.db
      .selectFrom("credential")
      .select("envelope")
      .where("user_id", "=", somebody.userId)
      .executeTakeFirstOrThrow();
    await somebody.setKey(`${KEY}-2`);
    await database.db.updateTable("credential").set({ envelope: old.envelope }).where("user_id", "=", somebody.userId).execute();
    await expect(server.opened.open(somebody.userId)).rejects.toBeInstanceOf(VaultError);
  });

  it("is nowhere in the tables in clear", async () => {
    const somebody = await registeredPerson("dump@example.com");
    await somebody.setKey(KEY);
    const rows = await database.db.selectFrom("credential").selectAll().execute();
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) expect(Buffer.from(row.envelope).includes("planted")).toBe(false);
  });

  it("changed by another server is seen after five seconds, and a borrowed copy stays whole", async () => {
    const somebody = await registeredPerson("elsewhere@example.com");
    await somebody.setKey(KEY);
    const borrowed = await server.opened.open(somebody.userId);
    await database.db.deleteFrom("credential").where("user_id", "=", somebody.userId).execute();
    expect(await openedSecret(somebody.userId)).toBe(KEY);
    await expect.poll(() => openedSecret(somebody.userId), { timeout: 7_000, interval: 500 }).toBeUndefined();
    expect(borrowed?.secret.toString()).toBe(KEY);
    borrowed?.release();
  });
});
