/** The limits per minute as clients meet them, on two servers of one database. Their exactness is proved in test/api/limits.test.ts. */
import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";
import type { App } from "../../server/app.ts";
import { clientOf, ofType } from "../api/websocket-harness.ts";
import { createInstallation, type Installation, neighbourOf, plantedKey, startApp } from "../support/carrel.ts";

let installation: Installation;
const apps: App[] = [];
const made: string[] = [];

beforeAll(async () => {
  installation = await createInstallation({
    CARREL_STANDBY_SANDBOXES: "0",
    CARREL_LIMIT_REGISTRATIONS_PER_MINUTE: "3",
    CARREL_LIMIT_SESSION_CREATES_PER_MINUTE: "2",
    CARREL_LIMIT_PROMPTS_PER_MINUTE: "5",
    CARREL_LIMIT_TICKETS_PER_MINUTE: "4",
    CARREL_LIMIT_PROFILES: "5",
  });
  apps.push(await startApp(installation), await startApp(neighbourOf(installation, "two")));
});

afterAll(async () => {
  for (const id of made) await call("DELETE", `/v1/sessions/${id}`);
  while ((await alive()) > 0) await new Promise((resolve) => setTimeout(resolve, 100));
  for (const app of apps) await app.close();
  await installation.remove();
});

async function alive(): Promise<number> {
  return (await installation.database.db.selectFrom("session").select("id").where("state", "<>", "ended").execute()).length;
}

const tokenFor = (app: App) => app.issuer.issueToken({ email: "busy@example.com", ttlMs: 600_000, operator: false });

type Answer = { status: number; retryAfter: number; body: { error?: string; session?: { id: string } } };

async function call(method: string, path: string, body: unknown = {}, index = 0): Promise<Answer> {
  const app = apps[index % 2]!;
  const headers = { authorization: `Bearer ${await tokenFor(app)}`, "content-type": "application/json" };
  const response = await fetch(`${app.url}${path}`, { method, headers, ...(method === "POST" ? { body: JSON.stringify(body) } : {}) });
  return {
    status: response.status,
    retryAfter: Number(response.headers.get("retry-after")),
    body: (await response.json()) as Answer["body"],
  };
}

function expectTooMany({ status, retryAfter, body }: Answer): void {
  expect({ status, error: body.error }).toEqual({ status: 429, error: "rate_limited" });
  expect(retryAfter).toBeGreaterThan(50);
  expect(retryAfter).toBeLessThanOrEqual(60);
}

test("registration requests: three a minute, repeated ones too", async () => {
  for (let index = 0; index < 3; index++) expect((await call("POST", "/v1/register", {}, index)).status).toBe(200);
  expectTooMany(await call("POST", "/v1/register", {}, 0));
  expectTooMany(await call("POST", "/v1/register", {}, 1));
});

test("new sessions: two a minute of twenty at once; a repeated request_id is answered and not counted", async () => {
  await call("POST", "/v1/auth/claude/apikey", { api_key: plantedKey });
  const first = await call("POST", "/v1/sessions", { request_id: "same" });
  const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => call("POST", "/v1/sessions", {}, index)));
  const accepted = [first, ...answers].filter(({ status }) => status === 201);
  made.push(...accepted.map(({ body }) => body.session!.id));
  expect(accepted).toHaveLength(2);
  for (const answer of answers) if (answer.status !== 201) expectTooMany(answer);
  expect((await call("POST", "/v1/sessions", { request_id: "same" }, 1)).body.session?.id).toBe(first.body.session?.id);
});

test("prompts: five a minute to one session over REST and WebSocket together; the frame says when to come again", async () => {
  const [id = "", other = ""] = made;
  expect((await call("POST", `/v1/sessions/${id}/prompts`, { text: "[[text over REST]]" }, 0)).status).toBeLessThan(300);
  const url = `${apps[1]!.url.replace("http", "ws")}/v1/sessions/${id}/ws`;
  const client = clientOf(new WebSocket(url, { headers: { authorization: `Bearer ${await tokenFor(apps[1]!)}` } }));
  await client.next(ofType("session_status"));
  for (let index = 1; index <= 6; index++) client.send("prompt", { text: `[[text ${index}]]` });
  for (let refused = 0; refused < 2; refused++) {
    const { payload } = await client.next(ofType("error"));
    expect(payload).toMatchObject({ code: "rate_limited", retry_after: expect.any(Number) });
    expect(payload.retry_after).toBeGreaterThan(50);
  }
  client.send("no_such_type");
  expect((await client.next(ofType("error"))).payload.code).toBe("invalid_message");
  client.socket.terminate();
  expectTooMany(await call("POST", `/v1/sessions/${id}/prompts`, { text: "one more" }, 0));
  expect((await call("POST", `/v1/sessions/${other}/prompts`, { text: "[[text elsewhere]]" }, 1)).status).toBeLessThan(300);
});

test("profiles: five of one person, of twenty made at once on both servers", async () => {
  const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => call("POST", "/v1/profiles", { name: `p${index}` }, index)));
  // Two came with the registration.
  expect(answers.filter(({ status }) => status === 201)).toHaveLength(3);
  for (const { status, body } of answers) if (status !== 201) expect([status, body.error]).toEqual([409, "profile_limit"]);
});

test("tickets: four a minute of one person on both servers; one bought on one server opens a WebSocket of the other, once", async () => {
  const [id = ""] = made;
  const answers = await Promise.all(Array.from({ length: 12 }, (_, index) => call("POST", `/v1/sessions/${id}/ws-ticket`, {}, index)));
  const bought = answers.filter(({ status }) => status === 201);
  expect(bought).toHaveLength(4);
  for (const answer of answers) if (answer.status !== 201) expectTooMany(answer);
  const { ticket } = bought[0]!.body as { ticket?: string };
  const [first, again] = apps.map((app) =>
    clientOf(new WebSocket(`${app.url.replace("http", "ws")}/v1/sessions/${id}/ws?ticket=${ticket}`)),
  );
  const outcomes = await Promise.all(
    [first!, again!].map((client) =>
      Promise.race([
        client.next(ofType("session_status")).then(
          () => "open",
          () => "refused",
        ),
        client.closed,
      ]),
    ),
  );
  expect(outcomes.filter((outcome) => outcome === "open")).toHaveLength(1);
  for (const client of [first, again]) client!.socket.terminate();
  const asToken = await fetch(`${apps[0]!.url}/v1/sessions`, { headers: { authorization: `Bearer ${ticket}` } });
  expect(asToken.status).toBe(401);
});
