import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { httpVersions, plainRequest } from "../contract/protocols-client.ts";
import { brokenId, busyId, knownId, otherId, startStub, stubToken, stuckId } from "../contract/protocols-stub.ts";

let server: Awaited<ReturnType<typeof startStub>>;
beforeAll(async () => {
  server = await startStub({ limits: { requestBytes: 64 * 1024, unaryDeadlineMs: 400, maxUnaryDeadlineMs: 5000 } });
});
afterAll(() => server.close());

const bearer = { authorization: `Bearer ${stubToken}` };
const jsonType = { ...bearer, "content-type": "application/json" };

type Row = {
  path: string;
  method?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
  status: number;
  error: string;
  details?: object;
};

function post(path: string, body: string | Buffer, status: number, error: string, details?: object): Row {
  return { path, method: "POST", headers: jsonType, body, status, error, ...(details ? { details } : {}) };
}

const create = "/v1/sessions";
const one = `/v1/sessions/${knownId}`;

const restTable: Record<string, Row> = {
  "malformed JSON": post(create, "{", 400, "malformed_body"),
  "a bare word": post(create, "hello", 400, "malformed_body"),
  "an array as body": post(create, "[]", 400, "malformed_body"),
  "null as body": post(create, "null", 400, "malformed_body"),
  "bytes that are not UTF-8": post(create, Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 400, "malformed_body"),
  "a repeated key": post(create, '{"name":"a","name":"b"}', 400, "malformed_body"),
  "a repeated key written in two ways": post(create, '{"name":"a","n\\u0061me":"b"}', 400, "malformed_body"),
  "a key named __proto__": post(create, '{"__proto__":{"name":"x"}}', 400, "malformed_body"),
  "a key named __proto__ deep inside": post(`${one}/approvals/t1`, '{"updated_input":{"a":[{"__proto__":1}]}}', 400, "malformed_body"),
  "a deep nest": post(`${one}/approvals/t1`, `{"updated_input":${'{"a":'.repeat(5000)}1${"}".repeat(5001)}`, 400, "malformed_body"),
  "a number for a text": post(create, '{"name":5}', 400, "invalid_argument", {
    violations: [{ field: "name", message: "expected a string of whole characters" }],
  }),
  "half a character": post(create, '{"name":"\\ud800"}', 400, "invalid_argument"),
  "an object for a list": post(create, '{"allowed_tools":{}}', 400, "invalid_argument"),
  "a number inside a list of texts": post(create, '{"allowed_tools":["Read",7]}', 400, "invalid_argument", {
    violations: [{ field: "allowed_tools[1]", message: "expected a string of whole characters" }],
  }),
  "a text for a bool": post(`${one}/approvals/t1`, '{"approved":"yes"}', 400, "invalid_argument"),
  "a text for a Struct": post(`${one}/approvals/t1`, '{"updated_input":"x"}', 400, "invalid_argument"),
  "a list for a map": post(`${one}/questions/q1`, '{"answers":["x"]}', 400, "invalid_argument"),
  "a number in a map of texts": post(`${one}/questions/q1`, '{"answers":{"a":1}}', 400, "invalid_argument"),
  "an unknown enum word": post(create, '{"permission_mode":"yolo"}', 400, "invalid_argument", {
    violations: [{ field: "permission_mode", message: "expected one of acceptEdits, plan, bypassPermissions" }],
  }),
  "a number for an enum": post(create, '{"permission_mode":1}', 400, "invalid_argument"),
  "an unknown field": post(create, '{"denied_tool":[],"nmae":"x"}', 400, "unknown_field", { fields: "denied_tool, nmae" }),
  "a field by its JSON name": post(create, '{"permissionMode":"plan"}', 400, "unknown_field"),
  "a field by both its names": post(create, '{"request_id":"a","idempotent_key":"b"}', 400, "invalid_argument"),
  "a field of the hosted product": post(create, '{"provider":"openai","plugins":["x"]}', 400, "unsupported_field", {
    fields: "provider, plugins",
  }),
  "a path field that differs in the body": {
    ...post(one, `{"session_id":"${otherId}","name":"x"}`, 400, "invalid_argument"),
    method: "PATCH",
  },
  "a broken rule of the contract": post(create, '{"name":"a\\u0000b"}', 400, "invalid_argument"),
  "a NUL in the path": { path: "/v1/sessions/ses_%00", status: 400, error: "invalid_argument" },
  "bad percent-encoding in the path": { path: "/v1/sessions/%zz", status: 400, error: "invalid_argument" },
  "percent-encoding that is not UTF-8": { path: "/v1/sessions/%ff%fe", status: 400, error: "invalid_argument" },
  "bad percent-encoding in the query": { path: "/v1/sessions?cursor=%", status: 400, error: "invalid_argument" },
  "a NUL in the query": { path: "/v1/sessions?limit=%00", status: 400, error: "invalid_argument" },
  "an unknown query field": {
    path: "/v1/sessions?offset=3&page=1",
    status: 400,
    error: "unknown_field",
    details: { fields: "offset, page" },
  },
  "a query where the body carries the fields": { ...post(`${create}?name=x`, "{}", 400, "unknown_field") },
  "a query field twice": { path: "/v1/sessions?limit=1&limit=2", status: 400, error: "invalid_argument" },
  "a number in another notation": { path: "/v1/sessions?limit=0x10", status: 400, error: "invalid_argument" },
  "a number beyond its type": { path: "/v1/sessions?limit=3000000000", status: 400, error: "invalid_argument" },
  "a negative page": { path: "/v1/sessions?limit=-1", status: 400, error: "invalid_argument" },
  "an unknown word in the query": { path: "/v1/sessions?status=asleep", status: 400, error: "invalid_argument" },
  "a body with another content type": {
    path: create,
    method: "POST",
    headers: { ...bearer, "content-type": "text/plain" },
    body: "{}",
    status: 415,
    error: "unsupported_media_type",
  },
  "a body without a content type": {
    path: create,
    method: "POST",
    headers: bearer,
    body: "{}",
    status: 415,
    error: "unsupported_media_type",
  },
  "a compressed body": {
    path: create,
    method: "POST",
    headers: { ...jsonType, "content-encoding": "gzip" },
    body: "{}",
    status: 415,
    error: "unsupported_media_type",
  },
  "a body where none belongs": {
    path: one,
    method: "DELETE",
    headers: jsonType,
    body: '{"force":true}',
    status: 400,
    error: "unknown_field",
  },
  "a body over the limit": post(create, `{"name":"${"x".repeat(70_000)}"}`, 413, "too_large"),
  "a path that is not there": { path: "/v1/nothing", status: 404, error: "not_found" },
  "duplicate slashes": { path: "/v1//sessions", status: 404, error: "not_found" },
  "a trailing slash": { path: "/v1/sessions/", status: 404, error: "not_found" },
  "a path outside the API": { path: "/..%2f..%2fetc/passwd", status: 404, error: "not_found" },
  "a verb that the path does not have": {
    path: create,
    method: "PUT",
    status: 405,
    error: "method_not_allowed",
    details: { allowed: "POST, GET, HEAD, OPTIONS" },
  },
  "no token": { path: create, headers: {}, status: 401, error: "unauthenticated" },
  "a deadline that is no number": {
    path: create,
    headers: { ...bearer, "connect-timeout-ms": "soon" },
    status: 400,
    error: "invalid_argument",
  },
  "a deadline beyond the maximum": {
    path: create,
    headers: { ...bearer, "connect-timeout-ms": "9999999" },
    status: 400,
    error: "invalid_argument",
  },
  "what is not there": { path: `/v1/sessions/${otherId}`, status: 404, error: "not_found", details: { resource: "session" } },
  "a method that nobody has written": { path: `${one}/pending`, status: 501, error: "unimplemented" },
};

for (const version of httpVersions) {
  describe(`REST over ${version} refuses`, () => {
    for (const [name, row] of Object.entries(restTable)) {
      test(name, async () => {
        const answer = await plainRequest(version, server.url + row.path, {
          method: row.method ?? "GET",
          headers: row.headers ?? bearer,
          ...(row.body === undefined ? {} : { body: row.body }),
        });
        const body = JSON.parse(answer.text) as { error: string; details: object };
        expect([answer.status, body.error]).toEqual([row.status, row.error]);
        expect(Object.keys(body)).toEqual(["error", "message", "details"]);
        if (row.details) expect(body.details).toEqual(row.details);
        expect(answer.headers["x-content-type-options"]).toBe("nosniff");
        expect(answer.headers.server).toBeUndefined();
        if (row.status === 405) expect(answer.headers.allow).toBe("POST, GET, HEAD, OPTIONS");
        if (row.status === 401) expect(answer.headers["www-authenticate"]).toBe("Bearer");
      });
    }
  });

  describe(`RPC over ${version} refuses`, () => {
    const rpc = "/carrel.v1.SessionService/CreateSession";
    const rows: Record<string, [Record<string, string>, string | Buffer, number, string]> = {
      "malformed JSON": [jsonType, "{", 400, "invalid_argument"],
      "malformed protobuf": [
        { ...bearer, "content-type": "application/proto" },
        Buffer.from([0x0a, 0xff, 0xff, 0x01]),
        400,
        "invalid_argument",
      ],
      "an unknown field": [jsonType, '{"deniedTool":[]}', 400, "invalid_argument"],
      "a wrong type": [jsonType, '{"name":{}}', 400, "invalid_argument"],
      "an unknown enum value": [jsonType, '{"permissionMode":"YOLO"}', 400, "invalid_argument"],
      "a deep nest": [jsonType, "[".repeat(60_000), 400, "invalid_argument"],
      "a message over the limit": [jsonType, `{"name":"${"x".repeat(70_000)}"}`, 429, "resource_exhausted"],
      "a malformed deadline": [{ ...jsonType, "connect-timeout-ms": "-1" }, "{}", 400, "invalid_argument"],
      "an unknown compression": [{ ...jsonType, "content-encoding": "br" }, "{}", 501, "unimplemented"],
      "broken gzip": [{ ...jsonType, "content-encoding": "gzip" }, "not gzip", 400, "invalid_argument"],
      "no token": [{ "content-type": "application/json" }, "{}", 401, "unauthenticated"],
    };
    for (const [name, [headers, body, status, code]] of Object.entries(rows)) {
      test(name, async () => {
        const answer = await plainRequest(version, server.url + rpc, { method: "POST", headers, body });
        expect([answer.status, (JSON.parse(answer.text) as { code: string }).code]).toEqual([status, code]);
      });
    }

    test("a stream whose request cannot be read", async () => {
      const envelope = Buffer.from([0, 0, 0, 0, 2, 0x0a, 0xff]);
      const answer = await plainRequest(version, `${server.url}/carrel.v1.ChannelService/WatchEvents`, {
        method: "POST",
        headers: { ...bearer, "content-type": "application/connect+proto" },
        body: envelope,
      });
      expect([answer.status, answer.text.slice(5)]).toEqual([200, expect.stringContaining('"code":"invalid_argument"')]);
    });

    test("a content type that no protocol has", async () => {
      const answer = await plainRequest(version, server.url + rpc, {
        method: "POST",
        headers: { ...bearer, "content-type": "text/xml" },
        body: "<a/>",
      });
      expect([answer.status, (JSON.parse(answer.text) as { error: string }).error]).toEqual([415, "unsupported_media_type"]);
    });

    test("a GET of a method that changes something", async () => {
      expect((await plainRequest(version, `${server.url}${rpc}?connect=v1&encoding=json&message=%7B%7D`, { headers: bearer })).status).toBe(
        405,
      );
    });

    test("a GET whose message is not JSON", async () => {
      expect(
        (
          await plainRequest(version, `${server.url}/carrel.v1.SessionService/GetSession?connect=v1&encoding=json&message=%00`, {
            headers: bearer,
          })
        ).status,
      ).toBe(400);
    });
  });
}

describe("REST accepts", () => {
  test("an absent body, zero bytes of JSON and {} as the same", async () => {
    const bodies = [
      { headers: bearer },
      { headers: jsonType },
      { headers: jsonType, body: "" },
      { headers: jsonType, body: "{}" },
      { headers: { ...jsonType, "content-type": "application/json; charset=utf-8" }, body: " { } " },
    ];
    for (const version of httpVersions) {
      for (const init of bodies) {
        const answer = await plainRequest(version, server.url + create, { method: "POST", ...init });
        expect(answer.status).toBe(201);
        expect(JSON.parse(answer.text)).toMatchObject({ session: { name: "", permission_mode: null, allowed_tools: [] } });
      }
    }
  });

  test("words, former words, proto names, former field names and fields that say nothing", async () => {
    const body = {
      permission_mode: "bypassPermissions",
      idempotent_key: "k1",
      provider: "anthropic",
      plugins: [],
      lc_credentials: {},
      task_budget_tokens: null,
      region: "",
      name: null,
    };
    const made = await plainRequest("http1", server.url + create, { method: "POST", headers: jsonType, body: JSON.stringify(body) });
    expect([made.status, JSON.parse(made.text)]).toMatchObject([
      201,
      { session: { permission_mode: "bypassPermissions", model: "k1", name: "" } },
    ]);
    for (const word of ["ended", "terminated", "failed", "SESSION_STATUS_ENDED"]) {
      const listed = await plainRequest("http1", `${server.url}/v1/sessions?status=${word}&cursor=a+b%20c`, { headers: bearer });
      expect(JSON.parse(listed.text)).toMatchObject({ sessions: [{ status: "ended" }], next_cursor: "a b c" });
    }
  });

  test("Struct and map fields as plain JSON, both ways", async () => {
    const approved = await plainRequest("http1", `${server.url}${one}/approvals/t%2F1`, {
      method: "POST",
      headers: jsonType,
      body: '{"approved":true,"updated_input":{"a":[1,null,{"b":"c"}]}}',
    });
    expect(JSON.parse(approved.text)).toMatchObject({ pattern: 't/1 {"a":[1,null,{"b":"c"}]}' });
    const events = await plainRequest("http1", `${server.url}${one}/events`, { headers: bearer });
    expect(JSON.parse(events.text)).toMatchObject({
      events: [{ payload: { tool_use: { input: { command: "ls", deep: [1, null, { a: true }] } } } }],
    });
  });
});

describe("what goes wrong behind the port", () => {
  test("an error of no kind of ours says nothing of its text on any surface", async () => {
    const rest = await plainRequest("http1", `${server.url}/v1/sessions/${brokenId}`, { headers: bearer });
    expect([rest.status, JSON.parse(rest.text)]).toEqual([500, { error: "internal", message: "internal error", details: {} }]);
    const connect = await plainRequest("http2", `${server.url}/carrel.v1.SessionService/GetSession`, {
      method: "POST",
      headers: jsonType,
      body: JSON.stringify({ sessionId: brokenId }),
    });
    expect([connect.status, connect.text.includes("hunter2")]).toEqual([500, false]);
    const line = server.lines.find((one) => one.code === "internal");
    expect(line).toMatchObject({ level: 50, rpc: "carrel.v1.SessionService/GetSession", protocol: "rest" });
    expect(JSON.stringify(line)).toContain("hunter2");
  });

  test("a refusal with a delay carries Retry-After", async () => {
    const answer = await plainRequest("http1", `${server.url}/v1/sessions/${busyId}/prompts`, {
      method: "POST",
      headers: jsonType,
      body: '{"text":"hi"}',
    });
    expect([answer.status, answer.headers["retry-after"], (JSON.parse(answer.text) as { error: string }).error]).toEqual([
      429,
      "7",
      "rate_limited",
    ]);
  });

  test("a handler that never answers is ended by the server's own deadline, on every surface", async () => {
    const rest = await plainRequest("http1", `${server.url}/v1/sessions/${stuckId}`, { headers: bearer });
    expect([rest.status, (JSON.parse(rest.text) as { error: string }).error]).toEqual([504, "deadline_exceeded"]);
    const connect = await plainRequest("http2", `${server.url}/carrel.v1.SessionService/GetSession`, {
      method: "POST",
      headers: jsonType,
      body: JSON.stringify({ sessionId: stuckId }),
    });
    expect([connect.status, (JSON.parse(connect.text) as { code: string }).code]).toEqual([504, "deadline_exceeded"]);
  });

  test("the log has one line per call and never a token, a query or a body", async () => {
    await plainRequest("http1", `${server.url}/v1/sessions?cursor=secret-cursor`, { headers: { ...bearer, "x-request-id": "mine-1" } });
    const mine = server.lines.filter((line) => line.request_id === "mine-1");
    expect(mine).toMatchObject([{ rpc: "carrel.v1.SessionService/ListSessions", protocol: "rest", http: "1.1", code: "ok" }]);
    const all = JSON.stringify(server.lines);
    for (const secret of [stubToken, "secret-cursor", "nmae"]) expect(all).not.toContain(secret);
  });
});
