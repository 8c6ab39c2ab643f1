import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { outcomeOf } from "../unit/identity/problem-of.ts";
import { capturable, type ProfileServer, serveProfiles } from "./profiles-harness.ts";

const dataDirectory = makeTemporaryDirectory("profiles");
let database: TestDatabase;
let server: ProfileServer;
let people = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  server = await serveProfiles(database, dataDirectory);
});
afterAll(async () => {
  await server.close();
  await database.drop();
  removeDirectory(dataDirectory);
});

const somebody = () => server.person(`person-${(people += 1)}@example.com`);
type Person = Awaited<ReturnType<typeof somebody>>;

async function namesOf(person: Person): Promise<string[]> {
  return (await person.rest("GET", "/v1/profiles")).body.profiles.map(({ name }) => name);
}

async function defaultsOf(person: Person): Promise<string[]> {
  return (await person.rest("GET", "/v1/profiles")).body.profiles.filter((profile) => profile.is_default).map(({ name }) => name);
}

async function made(person: Person, fields: object) {
  const answer = await person.rest("POST", "/v1/profiles", fields);
  expect(answer.status, answer.body.message).toBe(201);
  return answer.body.profile;
}

/** How often each outcome occurred. */
async function tally(work: Promise<unknown>[]): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const outcome of await Promise.all(work.map(outcomeOf))) counts[outcome] = (counts[outcome] ?? 0) + 1;
  return counts;
}

const secretFields = {
  environment: { TOKEN: "planted-environment", EMPTY: "" },
  mcp_servers: {
    docs: { type: "stdio", command: "docs-server", args: ["--fast"], env: { KEY: "planted-mcp-env" } },
    far: { type: "http", url: "https://mcp.example.com/", headers: { Authorization: "Bearer planted-header" } },
  },
};

describe("the first profiles", () => {
  it("are Default and Full Permissions, made at registration", async () => {
    const person = await somebody();
    await person.rest("POST", "/v1/register");
    const { status, body } = await person.rest("GET", "/v1/profiles");
    expect(status).toBe(200);
    expect(body.profiles).toHaveLength(2);
    expect(body.profiles[0]).toMatchObject({
      name: "Default",
      is_default: true,
      permission_mode: "acceptEdits",
      denied_tools: [],
      max_turns: null,
      environment: {},
      mcp_servers: {},
    });
    expect(body.profiles[0]!.allowed_tools).toEqual([
      "Read",
      ...["cat", "head", "tail", "less", "grep", "sed", "awk", "jq", "ls", "find", "wc"].map((name) => `Bash(${name}:*)`),
    ]);
    expect(body.profiles[1]).toMatchObject({
      name: "Full Permissions",
      is_default: false,
      permission_mode: "bypassPermissions",
      allowed_tools: [],
      denied_tools: [],
    });
  });

  it("are made once for somebody who registered before there were any, whoever asks first and however many do", async () => {
    server.settings.provision = false;
    const [lister, creator, opener] = await Promise.all([somebody(), somebody(), somebody()]);
    server.settings.provision = true;
    await Promise.all(Array.from({ length: 20 }, () => namesOf(lister)));
    expect(await namesOf(lister)).toEqual(["Default", "Full Permissions"]);
    await made(creator, { name: "Mine" });
    expect(await namesOf(creator)).toEqual(["Default", "Full Permissions", "Mine"]);
    const opened = await server.openProfile(opener.userId, { profileId: "", profileName: "" });
    expect(opened).toMatchObject({ name: "Default", settings: { permissionMode: "acceptEdits" } });
  });
});

describe("a profile", () => {
  it("is made, read, listed and removed", async () => {
    const person = await somebody();
    const fields = {
      description: "d".repeat(500),
      allowed_tools: ["Read"],
      denied_tools: ["Bash(rm:*)"],
      permission_mode: "plan",
      model: "m",
      max_turns: 5,
      max_budget_usd: 1.5,
      one_shot: true,
      ttl_seconds: 86_400,
      allowed_hosts: ["*"],
    };
    const profile = await made(person, { ...fields, name: "  Mine  " });
    expect(profile).toMatchObject({ ...fields, name: "Mine", is_default: false, id: expect.stringMatching(/^prf_[0-9a-f]{32}$/) });
    expect(profile.created_at).toBe(profile.updated_at);
    expect((await person.rest("GET", `/v1/profiles/${profile.id}`)).body.profile).toEqual(profile);
    expect(await person.rest("DELETE", `/v1/profiles/${profile.id}`)).toEqual({ status: 200, body: { deleted: true } });
    expect((await person.rest("DELETE", `/v1/profiles/${profile.id}`)).status).toBe(404);
    expect((await person.rest("GET", `/v1/profiles/${profile.id}`)).body.error).toBe("not_found");
  });

  it.each<[string, object, string]>([
    ["an empty name", { name: " " }, "name_required"],
    ["no name", {}, "name_required"],
    ["101 characters of name", { name: "é".repeat(101) }, "name_too_long"],
    ["501 characters of description", { name: "x", description: "é".repeat(501) }, "invalid_argument"],
    ["a name that is taken", { name: "Default" }, "name_taken"],
    ["a day and a second", { name: "x", ttl_seconds: 86_401 }, "invalid_argument"],
    ["no budget", { name: "x", max_budget_usd: 0 }, "invalid_argument"],
    ["less than a turn", { name: "x", max_turns: 0 }, "invalid_argument"],
    ["an unknown mode", { name: "x", permission_mode: "default" }, "invalid_argument"],
    ["a host with a port", { name: "x", allowed_hosts: ["a.example:443"] }, "invalid_argument"],
    ["a host with a path", { name: "x", allowed_hosts: ["a.example/b"] }, "invalid_argument"],
    ["a star inside a host", { name: "x", allowed_hosts: ["a.*.example"] }, "invalid_argument"],
    ["a variable that is no name", { name: "x", environment: { "A-B": "1" } }, "invalid_argument"],
    ["a variable with a NUL", { name: "x", environment: { A: "1\0" } }, "invalid_argument"],
    ["a dangerous variable", { name: "x", environment: { LD_PRELOAD: "1" } }, "invalid_argument"],
    [
      "a header with a line break",
      { name: "x", mcp_servers: { a: { type: "http", url: "https://a.example", headers: { A: "b\r\nC: d" } } } },
      "invalid_argument",
    ],
    ["a server name with a dot", { name: "x", mcp_servers: { "a.b": { type: "stdio", command: "c" } } }, "invalid_argument"],
    ["a misspelt denial", { name: "x", denied_tool: ["Bash"] }, "unknown_field"],
    ["another provider", { name: "x", provider: "openai" }, "unsupported_field"],
  ])("is refused with %s", async (_, fields, error) => {
    const answer = await (await somebody()).rest("POST", "/v1/profiles", fields);
    expect([answer.body.error, answer.status]).toEqual([error, error === "name_taken" ? 409 : 400]);
  });

  it("takes names of 100 characters, whatever their bytes, and tells letter case apart", async () => {
    const person = await somebody();
    expect((await made(person, { name: "😀".repeat(100) })).name).toBe("😀".repeat(100));
    await made(person, { name: "default" });
    expect(await namesOf(person)).toContain("default");
  });

  it("tells of what is wrong by field", async () => {
    const { body } = await (await somebody()).rest("POST", "/v1/profiles", {
      name: "x",
      allowed_tools: ["Bash(git)"],
      environment: { NODE_OPTIONS: "planted" },
    });
    expect(body.details.fields).toBe("allowed_tools[0], environment.NODE_OPTIONS");
    expect(body.details.violations).toMatchObject([{ field: "allowed_tools[0]" }, { field: "environment.NODE_OPTIONS" }]);
    expect(JSON.stringify(body)).not.toContain("planted");
  });

  it("is made once for each request id, on either surface", async () => {
    const person = await somebody();
    const first = await made(person, { name: "Once", request_id: "r1", environment: { A: "1" } });
    expect(await made(person, { name: "Once", request_id: "r1", environment: { A: "1" } })).toEqual(first);
    expect((await person.rest("POST", "/v1/profiles", { name: "Once", request_id: "r1", environment: { A: "2" } })).body.error).toBe(
      "request_id_reused",
    );
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => person.rpc.createProfile({ profile: { name: "Many" }, requestId: "r2" })),
    );
    expect(new Set(answers.map(({ profile }) => profile?.id)).size).toBe(1);
    expect(await namesOf(person)).toEqual(["Default", "Full Permissions", "Once", "Many"]);
  });

  it("of somebody else is not there", async () => {
    const [owner, other] = await Promise.all([somebody(), somebody()]);
    const { id } = await made(owner, { name: "Mine" });
    for (const [verb, path, body] of [
      ["GET", `/v1/profiles/${id}`],
      ["PUT", `/v1/profiles/${id}`, { name: "x" }],
      ["DELETE", `/v1/profiles/${id}`],
      ["POST", `/v1/profiles/${id}/default`],
    ] as const) {
      const absent = await other.rest(verb, path.replace(id, `prf_${"0".repeat(32)}`), body);
      expect(await other.rest(verb, path, body)).toEqual(absent);
      expect(absent).toMatchObject({ status: 404, body: { error: "not_found" } });
    }
    expect(await outcomeOf(server.openProfile(other.userId, { profileId: id, profileName: "" }))).toBe("NOT_FOUND");
    expect(await namesOf(owner)).toContain("Mine");
  });

  it("is captured from a session, with its secrets", async () => {
    const person = await somebody();
    const path = `/v1/sessions/${capturable.sessionId}/capture-profile`;
    const answer = await person.rest("POST", path, { name: "Captured", description: "from a session", request_id: "c" });
    expect(answer.status).toBe(201);
    expect(answer.body.profile).toMatchObject({
      name: "Captured",
      description: "from a session",
      allowed_tools: ["Read"],
      max_turns: 9,
      environment: { CAPTURED: "" },
      is_default: false,
    });
    expect((await person.rest("POST", path, { name: "Captured", description: "from a session", request_id: "c" })).body).toEqual(
      answer.body,
    );
    expect((await server.openProfile(person.userId, { profileId: "", profileName: "Captured" })).settings).toEqual(capturable.settings);
    expect((await person.rest("POST", path, { name: "" })).body.error).toBe("name_required");
    expect((await person.rest("POST", `/v1/sessions/ses_${"0".repeat(32)}/capture-profile`, { name: "x" })).body.error).toBe("not_found");
  });
});

describe("an update", () => {
  it("changes on REST what its body has, and nothing when it sends back what was read", async () => {
    const person = await somebody();
    const before = await made(person, { name: "Mine", description: "old", max_turns: 5, allowed_tools: ["Read"], ...secretFields });
    const path = `/v1/profiles/${before.id}`;
    const after = (await person.rest("PUT", path, { name: "Yours", max_turns: null })).body.profile;
    expect(after).toEqual({ ...before, name: "Yours", max_turns: null, updated_at: after.updated_at });
    expect(Date.parse(after.updated_at as string)).toBeGreaterThanOrEqual(Date.parse(before.updated_at as string));
    const same = (await person.rest("PUT", path, after)).body.profile;
    expect(same).toEqual({ ...after, updated_at: same.updated_at });
    const empty = (await person.rest("PUT", path)).body.profile;
    expect(empty).toEqual({ ...after, updated_at: empty.updated_at });
    expect((await server.openProfile(person.userId, { profileId: before.id, profileName: "" })).settings.environment).toEqual(
      secretFields.environment,
    );
  });

  it("changes on RPC what is populated, or what its mask names", async () => {
    const { rpc } = await somebody();
    const { profile } = await rpc.createProfile({ profile: { name: "Mine", description: "old", oneShot: true, maxTurns: 5 } });
    const profileId = profile!.id;
    const populated = await rpc.updateProfile({ profileId, profile: { description: "new", oneShot: false } });
    expect(populated.profile).toMatchObject({ name: "Mine", description: "new", oneShot: true, maxTurns: 5 });
    const masked = await rpc.updateProfile({
      profileId,
      profile: { description: "unseen", model: "m" },
      updateMask: { paths: ["one_shot", "max_turns", "model", "id"] },
    });
    expect(masked.profile).toMatchObject({ id: profileId, description: "new", model: "m", oneShot: false });
    expect(masked.profile?.maxTurns).toBeUndefined();
    expect(await outcomeOf(rpc.updateProfile({ profileId, profile: {}, updateMask: { paths: ["nmae"] } }))).toBe("INVALID_ARGUMENT");
  });

  it("is refused as a whole", async () => {
    const person = await somebody();
    const before = await made(person, { name: "Mine" });
    const path = `/v1/profiles/${before.id}`;
    expect((await person.rest("PUT", path, { description: "new", name: "Default" })).body.error).toBe("name_taken");
    expect((await person.rest("PUT", path, { description: "new", name: null })).body.error).toBe("name_required");
    expect((await person.rest("PUT", path, { description: "new", environment: { PATH: "/" } })).body.details.fields).toBe(
      "environment.PATH",
    );
    expect((await person.rest("GET", path)).body.profile).toEqual(before);
  });

  it("keeps, replaces and removes secrets by name", async () => {
    const person = await somebody();
    const { id } = await made(person, { name: "Mine", ...secretFields });
    await person.rest("PUT", `/v1/profiles/${id}`, {
      environment: { TOKEN: "", NEW: "n" },
      mcp_servers: { far: { ...secretFields.mcp_servers.far, headers: { Authorization: "", "X-Extra": "e" } } },
    });
    const { settings } = await server.openProfile(person.userId, { profileId: id, profileName: "" });
    expect(settings.environment).toEqual({ TOKEN: "planted-environment", NEW: "n" });
    expect(settings.mcpServers).toEqual({
      far: { type: "http", url: "https://mcp.example.com/", headers: { Authorization: "Bearer planted-header", "X-Extra": "e" } },
    });
  });

  it("of two fields at once loses neither", async () => {
    const { rpc } = await somebody();
    const profileId = (await rpc.createProfile({ profile: { name: "Mine" } })).profile!.id;
    await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        rpc.updateProfile({ profileId, profile: index % 2 ? { maxTurns: index } : { ttlSeconds: index + 1 } }),
      ),
    );
    const { profile } = await rpc.getProfile({ profileId });
    expect([profile?.maxTurns, profile?.ttlSeconds].every((value) => value !== undefined && value > 0)).toBe(true);
  });
});

describe("the default", () => {
  it("moves, cannot be removed, and cannot be merely taken away", async () => {
    const person = await somebody();
    const { id } = await made(person, { name: "Mine", is_default: true });
    expect(await defaultsOf(person)).toEqual(["Mine"]);
    expect(await person.rest("DELETE", `/v1/profiles/${id}`)).toMatchObject({ status: 409, body: { error: "default_profile" } });
    expect((await person.rest("PUT", `/v1/profiles/${id}`, { is_default: false })).body.details.fields).toBe("is_default");
    const full = (await person.rpc.listProfiles({})).profiles[1]!.id;
    expect(await person.rest("POST", `/v1/profiles/${full}/default`)).toMatchObject({
      status: 200,
      body: { profile: { name: "Full Permissions", is_default: true } },
    });
    expect((await person.rest("DELETE", `/v1/profiles/${id}`)).status).toBe(200);
    const first = (await person.rpc.listProfiles({})).profiles[0]!.id;
    await person.rest("PUT", `/v1/profiles/${first}`, { is_default: true });
    expect(await defaultsOf(person)).toEqual(["Default"]);
    expect((await server.openProfile(person.userId, { profileId: "", profileName: "" })).name).toBe("Default");
  });

  it("is one after fifty were set at once, while others are removed", async () => {
    const person = await somebody();
    await Promise.all(
      Array.from({ length: 8 }, (_, index) => person.rpc.createProfile({ profile: { name: `P${index}`, isDefault: index % 2 === 0 } })),
    );
    expect(await defaultsOf(person)).toHaveLength(1);
    const ids = (await person.rpc.listProfiles({})).profiles.map(({ id }) => id);
    const sets = Array.from({ length: 50 }, (_, index) => person.rpc.setDefaultProfile({ profileId: ids[index % ids.length]! }));
    const removals = ids.slice(0, 3).map((profileId) => person.rpc.deleteProfile({ profileId }));
    const outcomes = await tally([...sets, ...removals]);
    expect(Object.keys(outcomes).every((outcome) => ["accepted", "NOT_FOUND", "DEFAULT_PROFILE"].includes(outcome))).toBe(true);
    expect(await defaultsOf(person)).toHaveLength(1);
  });

  it("cannot be two or be gone, whatever is written to the tables", async () => {
    const [person, other] = await Promise.all([somebody(), somebody()]);
    const { db } = database;
    const ofOther = (await other.rpc.listProfiles({})).profiles[0]!.id;
    const own = (await person.rpc.listProfiles({})).profiles;
    await expect(db.insertInto("default_profile").values({ owner_id: person.userId, profile_id: own[1]!.id }).execute()).rejects.toThrow(
      "default_profile_pkey",
    );
    await expect(
      db.updateTable("default_profile").set({ profile_id: ofOther }).where("owner_id", "=", person.userId).execute(),
    ).rejects.toThrow("foreign key");
    await expect(db.deleteFrom("profile").where("id", "=", own[0]!.id).execute()).rejects.toThrow("foreign key");
  });
});

describe("the cap of ten", () => {
  it("lets exactly one of fifty in where nine are", async () => {
    const person = await somebody();
    for (let index = 0; index < 7; index++) await made(person, { name: `P${index}` });
    const creates = Array.from({ length: 50 }, (_, index) =>
      person.rpc.createProfile({ profile: { name: `Late ${index}` }, requestId: index % 2 ? `r${index}` : "" }),
    );
    expect(await tally(creates)).toEqual({ accepted: 1, PROFILE_LIMIT: 49 });
    expect(await namesOf(person)).toHaveLength(10);
    const refused = await person.rest("POST", "/v1/profiles", { name: "Eleventh" });
    expect(refused).toMatchObject({ status: 409, body: { error: "profile_limit", details: { limit: "10", count: "10" } } });
    expect((await person.rest("POST", `/v1/sessions/${capturable.sessionId}/capture-profile`, { name: "x" })).body.error).toBe(
      "profile_limit",
    );
  });
});

it("a profile is meant by id or by name, not by both", async () => {
  const person = await somebody();
  expect((await server.openProfile(person.userId, { profileId: "", profileName: " Full Permissions " })).settings.permissionMode).toBe(
    "bypassPermissions",
  );
  expect(await outcomeOf(server.openProfile(person.userId, { profileId: "", profileName: "full permissions" }))).toBe("NOT_FOUND");
  expect(await outcomeOf(server.openProfile(person.userId, { profileId: `prf_${"0".repeat(32)}`, profileName: "Default" }))).toBe(
    "INVALID_ARGUMENT",
  );
});
