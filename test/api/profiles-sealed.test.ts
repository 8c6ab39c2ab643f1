import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { McpTransport } from "../../gen/carrel/v1/mcp_server_pb.ts";
import { VaultError } from "../../server/vault/errors.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { type ProfileServer, serveProfiles } from "./profiles-harness.ts";

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

const somebody = () => server.person(`sealed-${(people += 1)}@example.com`);

async function made(person: Awaited<ReturnType<typeof somebody>>, fields: object) {
  const answer = await person.rest("POST", "/v1/profiles", fields);
  expect(answer.status, answer.body.message).toBe(201);
  return answer.body.profile;
}

const secretFields = {
  environment: { TOKEN: "planted-environment", EMPTY: "" },
  mcp_servers: {
    docs: { type: "stdio", command: "docs-server", args: ["--fast"], env: { KEY: "planted-mcp-env" } },
    far: { type: "http", url: "https://mcp.example.com/", headers: { Authorization: "Bearer planted-header" } },
  },
};

describe("what is sealed", () => {
  const rowOf = (id: string) => database.db.selectFrom("profile").selectAll().where("id", "=", id).executeTakeFirstOrThrow();

  it("is in no answer and in no column in clear", async () => {
    const person = await somebody();
    const { id } = await made(person, { name: "Mine", request_id: "sealed", ...secretFields });
    const { profile } = await person.rpc.getProfile({ profileId: id });
    expect(profile?.environment).toEqual({ TOKEN: "", EMPTY: "" });
    expect(profile?.mcpServers.far).toMatchObject({
      type: McpTransport.HTTP,
      url: "https://mcp.example.com/",
      headers: { Authorization: "" },
    });
    expect(profile?.mcpServers.docs).toMatchObject({ command: "docs-server", args: ["--fast"], env: { KEY: "" } });
    const answers = await Promise.all([
      person.rest("GET", "/v1/profiles"),
      person.rest("GET", `/v1/profiles/${id}`),
      person.rest("POST", `/v1/profiles/${id}/default`),
    ]);
    expect(JSON.stringify(answers)).not.toContain("planted");
    const requests = await database.db.selectFrom("request_id").selectAll().where("owner_id", "=", person.userId).execute();
    const bytes = [await rowOf(id), ...requests].flatMap((row) =>
      Object.values(row).map((value) => Buffer.from(Buffer.isBuffer(value) ? value : String(value))),
    );
    for (const hidden of ["planted", "TOKEN", "docs-server", "mcp.example.com", "Authorization"])
      expect(bytes.some((value) => value.includes(hidden))).toBe(false);
  });

  it("does not open in another profile, for another field, or in another generation", async () => {
    const person = await somebody();
    const [one, two] = [await made(person, { name: "One", ...secretFields }), await made(person, { name: "Two", ...secretFields })];
    const open = (id: string) => server.openProfile(person.userId, { profileId: id, profileName: "" });
    const set = (id: string, columns: object) => database.db.updateTable("profile").set(columns).where("id", "=", id).execute();
    const before = await rowOf(one.id);
    const swaps = [
      { environment: (await rowOf(two.id)).environment },
      { mcp_servers: (await rowOf(two.id)).mcp_servers },
      { mcp_servers: before.environment },
      { generation: 2 },
    ];
    for (const swap of swaps) {
      await set(one.id, swap);
      await expect(open(one.id)).rejects.toBeInstanceOf(VaultError);
      await set(one.id, { environment: before.environment, mcp_servers: before.mcp_servers, generation: 1 });
    }
    expect((await open(one.id)).settings.environment).toEqual(secretFields.environment);
    await person.rest("PUT", `/v1/profiles/${one.id}`, { environment: { TOKEN: "changed" } });
    await set(one.id, { environment: before.environment });
    await expect(open(one.id)).rejects.toBeInstanceOf(VaultError);
    expect((await person.rest("GET", `/v1/profiles/${one.id}`)).body).toEqual({
      error: "internal",
      message: "internal error",
      details: {},
    });
  });
});
