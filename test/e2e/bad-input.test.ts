import { createHmac } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { sql } from "kysely";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ChannelService, SendPromptRequestSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../../gen/carrel/v1/credential_service_pb.ts";
import { ErrorReasonSchema } from "../../gen/carrel/v1/error_reason_pb.ts";
import { RegistrationService } from "../../gen/carrel/v1/registration_service_pb.ts";
import { CreateSessionRequestSchema, SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import type { App } from "../../server/app.ts";
import { openLocalIssuer } from "../../server/identity/local-issuer.ts";
import { plainRequest } from "../contract/protocols-client.ts";
import { createInstallation, type Installation, startApp } from "../support/carrel.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { destroySandboxes } from "../support/sandboxes.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { unlimited } from "../support/unlimited.ts";
import { watch } from "../support/watcher.ts";

let installation: Installation;
let app: App;
let person: Person;
let sessionId: string;
let before: Record<string, string>;

beforeAll(async () => {
  // A session that lives, and whose row does not move by itself while nothing is asked of it.
  installation = await createInstallation({
    ...unlimited,
    CARREL_STANDBY_SANDBOXES: "0",
    CARREL_HEARTBEAT_MS: "600000",
    CARREL_HEARTBEAT_STALE_MS: "3600000",
  });
  app = await startApp(installation);
  person = await signUp(installation, app.url, "bad@example.com");
  sessionId = await openSession(person, { initialPrompt: "[[text hello]]" });
  const watcher = watch(person, sessionId);
  await watcher.untilKind("result");
  await watcher.untilKind("sessionStatus", ({ detail }) => detail === 4);
  await watcher.stop();
  before = await fingerprints();
});
afterAll(async () => {
  await app?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

/** One hash over all rows of each table. */
async function fingerprints(): Promise<Record<string, string>> {
  const { db } = installation.database;
  const { rows } = await sql<{ name: string }>`select tablename as name from pg_tables where schemaname = 'public' order by 1`.execute(db);
  const entries = await Promise.all(
    rows.map(async ({ name }) => {
      const { rows: hashes } = await sql<{
        n: number;
        hash: string | null;
      }>`select count(*)::int as n, md5(string_agg(t::text, '|' order by t::text)) as hash from ${sql.id(name)} t`.execute(db);
      return [name, `${hashes[0]!.n} ${hashes[0]!.hash}`] as const;
    }),
  );
  return Object.fromEntries(entries);
}

const words = new Set(ErrorReasonSchema.values.map(({ name }) => name.replace("ERROR_REASON_", "").toLowerCase()));
const codes = new Set([
  "invalid_argument",
  "unauthenticated",
  "permission_denied",
  "not_found",
  "already_exists",
  "failed_precondition",
  "resource_exhausted",
  "unimplemented",
  "out_of_range",
]);

const long = (length: number) => "x".repeat(length);
const absent = `ses_${"0".repeat(32)}`;
const one = () => `/v1/sessions/${sessionId}`;

type Rest = [method: string, path: () => string, body: string | Buffer | object | undefined, status: number, error: string];
const post = (path: () => string, body: string | Buffer | object, status: number, error: string): Rest => [
  "POST",
  path,
  body,
  status,
  error,
];
const sessions = () => "/v1/sessions";
const prompts = () => `${one()}/prompts`;

const rest: Record<string, Rest> = {
  "JSON that ends early": post(sessions, '{"name":"x"', 400, "malformed_body"),
  "JSON with something after it": post(sessions, '{"name":"x"} {}', 400, "malformed_body"),
  "a comment in JSON": post(sessions, '{/* */"name":"x"}', 400, "malformed_body"),
  NaN: post(prompts, '{"text":NaN}', 400, "malformed_body"),
  "a byte order mark in another encoding": post(sessions, Buffer.from('\ufeff{"name":"x"}', "utf16le"), 400, "malformed_body"),
  "bytes that are no text": post(prompts, Buffer.from([0x7b, 0x22, 0xc3, 0x28, 0x22, 0x7d]), 400, "malformed_body"),
  "a list where an object belongs": post(sessions, [], 400, "malformed_body"),
  "a number where a text belongs": post(prompts, { text: 7 }, 400, "invalid_argument"),
  "a text where a list belongs": post(sessions, { allowed_tools: "Read" }, 400, "invalid_argument"),
  "a list in a list of texts": post(sessions, { allowed_tools: [["Read"]] }, 400, "invalid_argument"),
  "an unknown enum word": post(sessions, { permission_mode: "root" }, 400, "invalid_argument"),
  "an enum word in capitals": post(sessions, { permission_mode: "PLAN" }, 400, "invalid_argument"),
  "an enum as a number": post(sessions, { permission_mode: 99 }, 400, "invalid_argument"),
  "a field that belongs to the server": post(
    sessions,
    { name: "x", owner_id: "someone", state: "ended", cost_usd: 0 },
    400,
    "unknown_field",
  ),
  "a NUL in a name": post(sessions, { name: "a\0b" }, 400, "invalid_argument"),
  "a NUL in a pattern": post(sessions, { allowed_tools: ["Read\0"] }, 400, "invalid_argument"),
  "a NUL in a request_id": post(prompts, { text: "x", request_id: "a\0" }, 400, "invalid_argument"),
  "a name over its limit": post(sessions, { name: long(201) }, 400, "invalid_argument"),
  "a model over its limit": post(sessions, { model: long(101) }, 400, "invalid_argument"),
  "a model with a space": post(sessions, { model: "a b" }, 400, "invalid_argument"),
  "a model that is an option": post(sessions, { model: "$(id)" }, 400, "invalid_argument"),
  "too many patterns": post(sessions, { allowed_tools: Array.from({ length: 201 }, () => "Read") }, 400, "invalid_argument"),
  "an empty pattern": post(sessions, { denied_tools: [""] }, 400, "invalid_argument"),
  "a pattern outside the grammar": post(sessions, { denied_tools: ["Bash("] }, 400, "invalid_argument"),
  "a prompt over its limit": post(prompts, { text: long(524_289) }, 400, "invalid_argument"),
  "a first prompt over its limit": post(sessions, { initial_prompt: long(524_289) }, 400, "invalid_argument"),
  "a body over its limit": post(prompts, { text: long(1_100_000) }, 413, "too_large"),
  "an empty prompt": post(prompts, { text: "" }, 400, "invalid_argument"),
  "no prompt at all": post(prompts, {}, 400, "invalid_argument"),
  "a request_id over its limit": post(prompts, { text: "x", request_id: long(256) }, 400, "invalid_argument"),
  "half a character": post(prompts, '{"text":"\\ud83d"}', 400, "invalid_argument"),
  "a name of spaces": ["PATCH", one, { name: "   " }, 400, "name_required"],
  "a new name over its limit": ["PATCH", one, { name: long(201) }, 400, "name_too_long"],
  "an empty key": post(() => "/v1/auth/claude/apikey", { api_key: "" }, 400, "invalid_argument"),
  "a key with a line break": post(() => "/v1/auth/claude/apikey", { api_key: "sk-ant-x\r\nx-evil: 1" }, 400, "invalid_argument"),
  "an id that is none": ["GET", () => "/v1/sessions/nonsense", undefined, 400, "invalid_argument"],
  "an id in capitals": ["GET", () => one().toUpperCase().replace("/V1/SESSIONS", "/v1/sessions"), undefined, 400, "invalid_argument"],
  "an id of SQL": ["GET", () => "/v1/sessions/ses_'%20or%201=1--", undefined, 400, "invalid_argument"],
  "an id that is not there": ["GET", () => `/v1/sessions/${absent}`, undefined, 404, "not_found"],
  "an id with a NUL": ["DELETE", () => `/v1/sessions/${absent}%00`, undefined, 400, "invalid_argument"],
  "a cursor that is none": ["GET", () => "/v1/sessions?cursor=AAAA", undefined, 400, "invalid_cursor"],
  "a cursor over its limit": ["GET", () => `/v1/sessions?cursor=${long(1001)}`, undefined, 400, "invalid_argument"],
  "a negative limit": ["GET", () => "/v1/sessions?limit=-1", undefined, 400, "invalid_argument"],
  "a limit beyond 32 bits": ["GET", () => "/v1/sessions?limit=4294967296", undefined, 400, "invalid_argument"],
  "a fraction for a number": ["GET", () => `${one()}/events?after_seq=1.5`, undefined, 400, "invalid_argument"],
  "an unknown status word": ["GET", () => "/v1/sessions?status=dormant-ish", undefined, 400, "invalid_argument"],
  "an answer to nothing": post(() => `${one()}/approvals/toolu_none`, { approved: true }, 404, "not_found"),
  "an answer with a space in its id": post(() => `${one()}/approvals/a%20b`, { approved: true }, 400, "invalid_argument"),
  "an answer with an unknown scope": post(
    () => `${one()}/approvals/toolu_x`,
    { approved: true, approval_scope: "forever" },
    400,
    "invalid_argument",
  ),
  "answers to nothing": post(() => `${one()}/questions/toolu_none`, { answers: { a: "b" } }, 404, "not_found"),
  "no answers": post(() => `${one()}/questions/toolu_none`, { answers: {} }, 400, "invalid_argument"),
  "the deletion of a living session's record": ["DELETE", () => `${one()}/record`, undefined, 409, "session_not_ended"],
  "a verb that the path does not have": ["PUT", one, {}, 405, "method_not_allowed"],
  "a path that is not there": ["GET", () => "/v1/admin", undefined, 404, "not_found"],
};

async function callRest([method, path, body]: Rest, token = person.token) {
  const text = body === undefined || typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const headers = { authorization: `Bearer ${token}`, ...(text === undefined ? {} : { "content-type": "application/json" }) };
  const answer = await plainRequest("http1", app.url + path(), { method, headers, ...(text === undefined ? {} : { body: text }) });
  return { status: answer.status, body: JSON.parse(answer.text) as { error: string; message: string; details: object } };
}

describe("REST refuses, by its reason and without a trace", () => {
  for (const [name, row] of Object.entries(rest)) {
    test(name, async () => {
      const { status, body } = await callRest(row);
      expect([status, body.error]).toEqual([row[3], row[4]]);
      expect(words).toContain(body.error);
      expect(body.message).toMatch(/\S/);
    });
  }
});

type Rpc = [path: string, type: string, body: string | Buffer | object];
const json = (path: string, body: string | object): Rpc => [path, "application/json", body];
const createPath = "SessionService/CreateSession";
const sendPath = "ChannelService/SendPrompt";
const proto = (path: string, body: Uint8Array): Rpc => [path, "application/proto", Buffer.from(body)];

const rpc: Record<string, () => Rpc> = {
  "JSON that ends early": () => json(createPath, '{"name":'),
  "a wrong type": () => json(sendPath, { sessionId, text: { a: 1 } }),
  "an unknown field": () => json(sendPath, { sessionId, text: "x", admin: true }),
  "an unknown enum word": () => json(createPath, { permissionMode: "PERMISSION_MODE_ROOT" }),
  "an enum number out of range": () => json(createPath, { permissionMode: 42 }),
  "a NUL in a name": () => json(createPath, { name: "a\0" }),
  "an id that is none": () => json(sendPath, { sessionId: "ses_1", text: "x" }),
  "an empty text": () => json(sendPath, { sessionId, text: "" }),
  "a text over its limit": () => json(sendPath, { sessionId, text: long(600_000) }),
  "a message over its limit": () => json(sendPath, { sessionId, text: long(1_100_000) }),
  "a number beyond 32 bits": () => json("ChannelService/ListEvents", { sessionId, afterSeq: 2 ** 31 }),
  "a negative number": () => json("ChannelService/ListEvents", { sessionId, afterSeq: -1 }),
  "bytes that are no message": () => proto(createPath, Uint8Array.of(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f)),
  "a text that is not UTF-8": () => proto(createPath, Uint8Array.of(0x0a, 0x02, 0xc3, 0x28)),
  "a message cut short": () =>
    proto(sendPath, toBinary(SendPromptRequestSchema, create(SendPromptRequestSchema, { sessionId, text: "hello" })).slice(0, -2)),
  "a group that never ends": () => proto(createPath, Uint8Array.of(0x0b, 0x0b, 0x0b)),
  "a NUL in a binary name": () =>
    proto(createPath, toBinary(CreateSessionRequestSchema, create(CreateSessionRequestSchema, { name: "a\0" }))),
  "an enum number out of range in binary": () => proto(createPath, Uint8Array.of(0x20, 0x63)),
  "field number zero": () => proto(createPath, Uint8Array.of(0x02, 0x01, 0x41)),
};

async function callRpc([path, type, body]: Rpc, token = person.token) {
  const bytes = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const answer = await plainRequest("http2", `${app.url}/carrel.v1.${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": type },
    body: bytes,
  });
  return { status: answer.status, text: answer.text };
}

describe("Connect refuses, by its code and without a trace", () => {
  for (const [name, row] of Object.entries(rpc)) {
    test(name, async () => {
      const { status, text } = await callRpc(row());
      const { code } = JSON.parse(text) as { code: string };
      expect([status >= 400 && status < 500, codes.has(code)]).toEqual([true, true]);
    });
  }
});

describe("tokens that are none are all refused alike", () => {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const forged = (header: object, change: object = {}) => {
    const [, payload = ""] = person.token.split(".");
    return `${part(header)}.${part({ ...(JSON.parse(Buffer.from(payload, "base64url").toString()) as object), ...change })}`;
  };
  const tokens: Record<string, () => string | Promise<string>> = {
    "not a token": () => "nonsense",
    "a token without a signature": () => `${forged({ alg: "none" })}.`,
    "a token with another algorithm": () => {
      const unsigned = forged({ alg: "HS256" });
      return `${unsigned}.${createHmac("sha256", "key").update(unsigned).digest("base64url")}`;
    },
    "a token changed after it was signed": () => `${forged({ alg: "EdDSA" }, { email: "boss@example.com" })}.${person.token.split(".")[2]}`,
    "a token whose signature is cut": () => person.token.slice(0, -4),
    "a token of another installation": async () => {
      const directory = makeTemporaryDirectory("issuer");
      const issuer = await openLocalIssuer(directory);
      removeDirectory(directory);
      return issuer.issueToken({ email: "bad@example.com", ttlMs: 60_000, operator: false });
    },
    "a very long token": () => `${long(4000)}.${long(4000)}.${long(200)}`,
    "a key of the provider": () => "sk-ant-api03-xxxxxxxx",
  };
  for (const [name, make] of Object.entries(tokens)) {
    test(name, async () => {
      const token = await make();
      const { status, body } = await callRest(["GET", sessions, undefined, 0, ""], token);
      expect([status, body.error]).toEqual([401, "unauthenticated"]);
      expect((await callRpc(json("SessionService/ListSessions", {}), token)).status).toBe(401);
    });
  }
});

test("random bytes, random JSON and random messages on every method are never an error of the server", async () => {
  let seed = 20_261_120;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed % below;
  };
  const values = ["", "x", "\0", -1, 2 ** 40, 1.5, true, null, [], {}, [[]], { a: { b: [1] } }, "ses_", "PLAN", long(300), "\u202e"];
  const statuses = new Map<number, number>();
  const services = [RegistrationService, CredentialService, SessionService, ChannelService];
  for (const service of services) {
    for (const method of service.methods) {
      for (let round = 0; round < 12; round += 1) {
        const fields = Object.fromEntries(method.input.fields.map(({ jsonName }) => [jsonName, values[random(values.length)]]));
        if ("sessionId" in fields && random(2) === 0) fields["sessionId"] = absent;
        const body =
          round % 3 === 0
            ? Buffer.from(Array.from({ length: random(60) + 1 }, () => random(256)))
            : round % 3 === 1
              ? JSON.stringify(fields)
              : Buffer.from(JSON.stringify(fields)).subarray(0, random(40) + 1);
        const type =
          method.methodKind === "unary" ? (round % 2 === 0 ? "application/json" : "application/proto") : "application/connect+json";
        // Without a token nothing can happen, with one everything is read: both ways, but no method that succeeds on emptiness.
        const harmful = ["Register", "Deregister", "CreateSession", "DeleteCredential"].includes(method.name);
        const { status, text } = await callRpc([`${service.name}/${method.name}`, type, body], harmful ? "none" : person.token);
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        expect([method.name, status < 500, text.includes('"internal"'), text.includes('"unknown"')]).toEqual([
          method.name,
          true,
          false,
          false,
        ]);
      }
    }
  }
  expect([...statuses.values()].reduce((sum, count) => sum + count)).toBeGreaterThan(200);
});

test("and after all of it nothing in the database has changed, and the session still works", async () => {
  expect(await fingerprints()).toEqual(before);
  const watcher = watch(person, sessionId);
  const from = (await person.sessions.getSession({ sessionId })).session!.lastSeq;
  await person.channel.sendPrompt({ sessionId, text: "[[text still here]]" });
  await watcher.until((event) => event.seq > from && event.payload?.kind.case === "result");
  // The fingerprints do see a change.
  expect(await fingerprints()).not.toEqual(before);
  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
});
