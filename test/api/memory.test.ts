/** The memory bank's API, on the real store and vault behind the real port. */
import { createHash } from "node:crypto";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createValidateInterceptor } from "@connectrpc/validate";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MemoryService } from "../../gen/carrel/v1/memory_service_pb.ts";
import { ProfileService } from "../../gen/carrel/v1/profile_service_pb.ts";
import { connectDatabase } from "../../server/db/connect.ts";
import { createHttpServer } from "../../server/http/server.ts";
import { createAuthorizationInterceptor, createAuthorizer, requireUser } from "../../server/identity/authorize.ts";
import { createLocalVerifier, openLocalIssuer } from "../../server/identity/local-issuer.ts";
import { createTokenVerifier } from "../../server/identity/verify.ts";
import { newId, newUuid } from "../../server/ids.ts";
import { createMemoryService } from "../../server/memory/service.ts";
import { applyToBank, type MemoryChange, readBank } from "../../server/memory/sessions.ts";
import { provisionDefaults } from "../../server/profiles/provision.ts";
import { createProfileService } from "../../server/profiles/service.ts";
import { plainSettings } from "../../server/profiles/settings.ts";
import { insertUser } from "../../server/registration/store.ts";
import { once } from "../../server/sessions/request-ids.ts";
import { createRootKeyring } from "../../server/vault/keyring.ts";
import { createSodium } from "../../server/vault/sodium.ts";
import { createVaultStore } from "../../server/vault/store.ts";
import { createVault } from "../../server/vault/vault.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { silentLog } from "../support/postgres-server.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

const dataDirectory = makeTemporaryDirectory("memory-api");
let database: TestDatabase;
let server: Awaited<ReturnType<typeof serve>>;

beforeAll(async () => {
  database = await createTestDatabase();
  server = await serve();
});
afterAll(async () => {
  await server.close();
  await database.drop();
  removeDirectory(dataDirectory);
});

async function serve() {
  const { db, close } = connectDatabase({ connection: database.connection, poolSize: 20, log: silentLog() });
  const sodium = await createSodium();
  const vault = createVault({ sodium, keyring: createRootKeyring(sodium, [sodium.random(32)]), store: createVaultStore(db) });
  const userVault = (userId: string) => vault.forUser(userId);
  const issuer = await openLocalIssuer(dataDirectory);
  const users = new Map<string, string>();
  const authorize = createAuthorizer({
    verify: createTokenVerifier([createLocalVerifier(issuer)]),
    findUser: (_issuer, subject) => Promise.resolve(users.get(subject)),
    publicServices: [],
  });
  const userIdOf = (context: Parameters<typeof requireUser>[0]) => requireUser(context).userId;
  const profiles = createProfileService({
    db,
    userVault,
    once,
    userIdOf,
    limit: 10,
    checkedName: (name) => name,
    isPattern: () => true,
    sessionSettings: () => Promise.resolve(plainSettings),
  });
  const http = createHttpServer({
    services: [ProfileService, MemoryService],
    routes: (router) => router.service(ProfileService, profiles).service(MemoryService, createMemoryService({ db, userVault, userIdOf })),
    interceptors: [createAuthorizationInterceptor(authorize), createValidateInterceptor()],
    allowedOrigins: [],
    log: pino({ level: "silent" }),
    ready: () => true,
    address: { host: "127.0.0.1", port: 0 },
  });
  const { port } = await http.listen();
  const url = `http://127.0.0.1:${port}`;

  /** Somebody with an own profile of an empty bank. */
  async function person() {
    const [userId, email] = [newUuid(), `${newUuid()}@example.com`];
    await insertUser(db, { userId, issuer: "carrel", subject: email, email }, async (tx) => {
      await vault.createUserKey(tx, userId);
      await provisionDefaults(tx, userId);
    });
    users.set(email, userId);
    const authorization = `Bearer ${await issuer.issueToken({ email, ttlMs: 600_000, operator: false })}`;
    const rest = async (method: string, path: string, body?: object) => {
      const answer = await fetch(`${url}${path}`, {
        method,
        headers: { authorization, "content-type": "application/json" },
        ...(body ? { body: JSON.stringify(body) } : {}),
      });
      return { status: answer.status, body: (await answer.json()) as Answer };
    };
    const profileId = (await rest("POST", "/v1/profiles", { name: "own" })).body.profile.id;
    const bank = `/v1/profiles/${profileId}/memories`;
    const at = (path: string) => `${bank}/content?path=${encodeURIComponent(path)}`;
    const transport = createConnectTransport({
      baseUrl: url,
      httpVersion: "2",
      interceptors: [
        (next) => (request) => {
          request.header.set("authorization", authorization);
          return next(request);
        },
      ],
    });
    return {
      userId,
      profileId,
      rest,
      rpc: createClient(MemoryService, transport),
      list: async () => (await rest("GET", bank)).body.memories,
      get: (path: string) => rest("GET", at(path)),
      put: (path: string, content: string) => rest("PUT", at(path), { content }),
      remove: (path: string) => rest("DELETE", at(path)),
    };
  }
  return {
    person,
    asRunner: async (owner: { userId: string; profileId: string }, changes: MemoryChange[]) => {
      const keys = await userVault(owner.userId);
      return db.transaction().execute((tx) => applyToBank(tx, keys, { owner_id: owner.userId, profile_id: owner.profileId }, changes));
    },
    atStart: async (owner: { userId: string; profileId: string }) => {
      const keys = await userVault(owner.userId);
      return db.transaction().execute((tx) => readBank(tx, keys, { owner_id: owner.userId, profile_id: owner.profileId }));
    },
    async close() {
      await http.close(100);
      vault.close();
      await close();
    },
  };
}

type Fields = { path: string; size: number; content_hash: string; created_at: string; updated_at: string };
type Answer = Fields & {
  content: string;
  created: boolean;
  changed: boolean;
  deleted: boolean;
  memories: Fields[];
  profile: { id: string };
  error: string;
  message: string;
  details: Record<string, unknown>;
};

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

describe("a file of a bank", () => {
  test("is made, read, listed without its content, replaced and deleted", async () => {
    const ann = await server.person();
    const made = await ann.put("notes/plan.md", "grün");
    expect(made).toMatchObject({
      status: 200,
      body: { path: "notes/plan.md", size: 5, content_hash: sha256("grün"), created: true, changed: true },
    });
    expect((await ann.get("notes/plan.md")).body).toEqual({ ...fieldsOf(made.body), content: "grün" });
    await ann.put("a.md", "");
    expect(await ann.list()).toEqual([expect.objectContaining({ path: "a.md", size: 0 }), fieldsOf(made.body)]);
    const replaced = await ann.put("notes/plan.md", "blau");
    expect(replaced.body).toMatchObject({ size: 4, created: false, changed: true, created_at: made.body.created_at });
    expect(Date.parse(replaced.body.updated_at)).toBeGreaterThanOrEqual(Date.parse(made.body.updated_at));
    expect((await ann.remove("notes/plan.md")).body).toEqual({ deleted: true });
    expect((await ann.remove("notes/plan.md")).body).toEqual({ deleted: false });
    expect(await ann.get("notes/plan.md")).toMatchObject({ status: 404, body: { error: "not_found" } });
  });

  test("is not written when it holds the content already", async () => {
    const ann = await server.person();
    const made = await ann.put("a", "same");
    const again = await ann.put("a", "same");
    expect(again.body).toEqual({ ...made.body, created: false, changed: false });
    const row = await database.db
      .selectFrom("profile_memory")
      .select("generation")
      .where("profile_id", "=", ann.profileId)
      .executeTakeFirstOrThrow();
    expect(row.generation).toBe(1);
  });

  test("is named by the query, and a body that repeats the name must agree", async () => {
    const ann = await server.person();
    const at = `/v1/profiles/${ann.profileId}/memories/content`;
    expect((await ann.rest("PUT", `${at}?path=a`, { path: "a", content: "x" })).status).toBe(200);
    expect((await ann.rest("PUT", `${at}?path=a`, { path: "b", content: "x" })).status).toBe(400);
    expect((await ann.rest("PUT", `${at}?path=a&path=b`, { content: "x" })).status).toBe(400);
    expect(await ann.rest("PUT", `${at}?path=a&other=b`, { content: "x" })).toMatchObject({
      status: 400,
      body: { error: "unknown_field" },
    });
    expect(await ann.list()).toHaveLength(1);
  });

  test("is the same over RPC", async () => {
    const ann = await server.person();
    expect(await ann.rpc.putMemory({ profileId: ann.profileId, path: "a", entry: { content: "x" } })).toMatchObject({
      created: true,
      changed: true,
      contentHash: sha256("x"),
    });
    expect(await ann.rpc.getMemory({ profileId: ann.profileId, path: "a" })).toMatchObject({ content: "x" });
  });

  test.each(["", "../a", "/etc/passwd", ".hidden", "a/b/c/d/e/f", "x".repeat(257), "a b"])("cannot be at %j", async (path) => {
    const ann = await server.person();
    for (const answer of [await ann.put(path, "x"), await ann.get(path), await ann.remove(path)]) {
      expect(answer).toMatchObject({ status: 400, body: { error: "invalid_argument", details: { fields: "path" } } });
    }
  });

  test("cannot be larger than 64 KiB, and a path cannot be a file and a directory", async () => {
    const ann = await server.person();
    expect((await ann.put("a", "ü".repeat(32_768))).status).toBe(200);
    expect(await ann.put("b", `${"ü".repeat(32_768)}x`)).toMatchObject({
      status: 413,
      body: { error: "too_large", details: { limit: "65536" } },
    });
    expect(await ann.put("a/b", "x")).toMatchObject({ status: 400, body: { error: "invalid_argument" } });
  });
});

test("a bank belongs to its owner alone, and goes with its profile", async () => {
  const [ann, bob] = [await server.person(), await server.person()];
  await ann.put("a", "ann's");
  const foreign = `/v1/profiles/${ann.profileId}/memories`;
  const unknown = `/v1/profiles/${newId("prf")}/memories`;
  for (const bank of [foreign, unknown]) {
    for (const [method, path, body] of [
      ["GET", bank],
      ["GET", `${bank}/content?path=a`],
      ["PUT", `${bank}/content?path=a`, { content: "bob's" }],
      ["DELETE", `${bank}/content?path=a`],
    ] as const) {
      expect(await bob.rest(method, path, body)).toMatchObject({ status: 404, body: { error: "not_found", message: "profile not found" } });
    }
  }
  expect((await ann.get("a")).body.content).toBe("ann's");
  await ann.rest("DELETE", `/v1/profiles/${ann.profileId}`);
  expect(await database.db.selectFrom("profile_memory").select("path").where("profile_id", "=", ann.profileId).execute()).toEqual([]);
  expect((await ann.get("a")).status).toBe(404);
});

describe("the limits", () => {
  test("hold when many write at once: of 30 into a bank of 90 exactly 10 are taken", async () => {
    const ann = await server.person();
    await server.asRunner(
      ann,
      Array.from({ length: 90 }, (_, index) => ({ path: `f${index}`, content: Buffer.from("x") })),
    );
    const answers = await Promise.all(Array.from({ length: 30 }, (_, index) => ann.put(`g${index}`, "x")));
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(10);
    const refused = answers.find(({ status }) => status !== 200);
    expect(refused).toMatchObject({ status: 409, body: { error: "memory_limit", details: { limit: "100", count: "100" } } });
    expect(await ann.list()).toHaveLength(100);
  });

  test("of all bytes together hold, and what is replaced does not count", async () => {
    const ann = await server.person();
    const full = Buffer.alloc(65_536, "x");
    await server.asRunner(
      ann,
      Array.from({ length: 80 }, (_, index) => ({ path: `f${index}`, content: full })),
    );
    expect(await ann.put("one-more", "x")).toMatchObject({ status: 409, body: { error: "memory_limit", details: { limit: "5242880" } } });
    expect((await ann.put("f0", "y".repeat(65_536))).body.changed).toBe(true);
  });
});

describe("what a runner brings back", () => {
  test("is taken one by one, and each refusal has its reason", async () => {
    const ann = await server.person();
    await ann.put("old", "o");
    const content = Buffer.from("x");
    const outcome = await server.asRunner(ann, [
      { path: "new", content },
      { path: "old", content },
      { path: "../up", content },
      { path: "/etc/x", content },
      { path: ".dot", content },
      { path: "", content },
      { path: "big", content: Buffer.alloc(65_537) },
      { path: "binary", content: Buffer.from([0xff]) },
      { path: "new/below", content },
      { path: "link", refused: "not_a_file" },
      { path: "absent", removed: true },
      { path: "last", content },
    ]);
    expect(outcome).toEqual({
      created: ["new", "last"],
      changed: ["old"],
      deleted: [],
      refused: [
        ...["../up", "/etc/x", ".dot", ""].map((path) => ({ path, reason: "invalid_path" })),
        { path: "big", reason: "too_large" },
        { path: "binary", reason: "not_text" },
        { path: "new/below", reason: "path_conflict" },
        { path: "link", reason: "not_a_file" },
      ],
    });
    expect((await ann.list()).map(({ path }) => path)).toEqual(["last", "new", "old"]);
  });

  test("reaches no bank but the one of its session's owner and profile", async () => {
    const [ann, bob] = [await server.person(), await server.person()];
    const outcome = await server.asRunner({ userId: bob.userId, profileId: ann.profileId }, [{ path: "a", content: Buffer.from("x") }]);
    expect(outcome.refused).toEqual([{ path: "a", reason: "profile_gone" }]);
    await ann.put("a", "1");
    expect(await server.atStart({ userId: bob.userId, profileId: ann.profileId })).toEqual([]);
    expect((await server.atStart(ann)).map(({ path, content }) => [path, Buffer.from(content).toString()])).toEqual([["a", "1"]]);
  });

  test("from two sessions at once loses nobody's other files", async () => {
    const ann = await server.person();
    const write = (who: string, index: number) =>
      server.asRunner(ann, [
        { path: `${who}${index}`, content: Buffer.from(who) },
        { path: "both", content: Buffer.from(who) },
      ]);
    await Promise.all(Array.from({ length: 20 }, (_, index) => [write("a", index), write("b", index)]).flat());
    expect(await ann.list()).toHaveLength(41);
    expect((await ann.get("both")).body.content).toMatch(/^[ab]$/);
  });
});

test("the database shows neither contents nor hashes that let them be guessed, and envelopes cannot be moved", async () => {
  const ann = await server.person();
  await ann.put("a", "planted-memory-a");
  await ann.put("b", "planted-memory-b");
  const rows = await database.db.selectFrom("profile_memory").selectAll().where("profile_id", "=", ann.profileId).orderBy("path").execute();
  for (const { content, digest } of rows) {
    expect(content.includes("planted")).toBe(false);
    for (const text of ["planted-memory-a", "planted-memory-b"]) expect(digest.includes(Buffer.from(sha256(text), "hex"))).toBe(false);
  }
  await database.db
    .updateTable("profile_memory")
    .set({ content: rows[0]!.content })
    .where("profile_id", "=", ann.profileId)
    .where("path", "=", "b")
    .execute();
  expect((await ann.get("b")).status).toBe(500);
  expect((await ann.get("a")).body.content).toBe("planted-memory-a");
});

function fieldsOf({ path, size, content_hash, created_at, updated_at }: Fields): Fields {
  return { path, size, content_hash, created_at, updated_at };
}
