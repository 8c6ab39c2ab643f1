import http, { type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { createModelGateway, type ModelGatewayDeps } from "../../../server/broker/model-gateway.ts";
import { createPatience } from "../../../server/broker/patience.ts";
import type { PhantomSession } from "../../../server/broker/phantom.ts";
import { createProviderNotices } from "../../../server/broker/provider-notices.ts";
import type { Journal } from "../../../server/journal/journal.ts";
import { createLog } from "../../../server/log.ts";

const opened: http.Server[] = [];
afterEach(() => {
  for (const server of opened.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

async function listen(listener: RequestListener): Promise<string> {
  const server = http.createServer(listener);
  opened.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A journal of one session that keeps what notices are appended to it; `fail` fails the next change after it was made. */
function journalOf(session: { state: string; turn: number }) {
  const told: string[] = [];
  const next = { fail: false };
  const journal = {
    async change(_id: string, _guard: unknown, body: (change: object) => void) {
      const appended: string[] = [];
      body({ session, append: ({ value }: { value: { subtype: string } }) => appended.push(value.subtype) });
      if (next.fail) {
        next.fail = false;
        throw new Error("planted fault");
      }
      told.push(...appended);
    },
  };
  return { told, next, notices: createProviderNotices({ journal: journal as unknown as Journal, log: createLog("silent") }) };
}

/** The gateway in front of a provider; returns its address. */
async function gatewayTo(provider: RequestListener, changes: Partial<ModelGatewayDeps> = {}) {
  const session: PhantomSession = {
    ...{ sessionId: "ses_1", ownerId: "ada", epoch: 1, box: "box_1", turn: 1 },
    ...{ spentMicros: 0, maxBudgetMicros: null, modelRequests: 0, maxTurns: null },
  };
  const gateway = createModelGateway({
    baseUrl: new URL(await listen(provider)),
    findPhantom: async () => session,
    openCredential: async () => ({ kind: "api_key", secret: Buffer.from("key"), release: () => undefined }),
    recordUsage: async () => undefined,
    track: () => undefined,
    endAtCap: async () => undefined,
    boxOf: () => "box_1",
    patience: createPatience({ tries: 3 }),
    tell: async () => undefined,
    silenceMs: 60_000,
    log: createLog("silent"),
    ...changes,
  });
  return listen(gateway.handle);
}

/** The same; returns what asks it. */
async function askerOf(provider: RequestListener, changes: Partial<ModelGatewayDeps> = {}) {
  const url = await gatewayTo(provider, changes);
  return (path: string) => fetch(url + path, { method: "POST", body: "{}", headers: { "x-api-key": "phantom" } });
}

test("a loop of refused requests is told of once in a turn, and every request is answered", async () => {
  const session = { state: "running", turn: 1 };
  const { told, next, notices } = journalOf(session);
  const ask = await askerOf((_request, response) => response.writeHead(403).end("{}"), { tell: notices });
  next.fail = true;
  for (let times = 0; times < 20; times += 1) expect((await ask("/v1/messages")).status).toBe(403);
  expect(told).toEqual(["provider_refused"]);
  session.turn = 2;
  await ask("/v1/messages");
  expect(told).toEqual(["provider_refused", "provider_refused"]);
});

test("a refusal that never ends is passed on after the silence", async () => {
  const ask = await askerOf((_request, response) => void response.writeHead(500).write("half"), { silenceMs: 100 });
  const answer = await ask("/v1/messages");
  expect([answer.status, await answer.text()]).toEqual([500, "half"]);
});

test("what becomes of counting tokens is no reason to refuse or to let through a message", async () => {
  const patience = createPatience({ tries: 1 });
  const ask = await askerOf(
    (request, response) => {
      if (request.url?.includes("count_tokens")) response.writeHead(429, { "retry-after": "3600" }).end("{}");
      else response.writeHead(200, { "content-type": "application/json" }).end("{}");
    },
    { patience },
  );
  expect((await ask("/v1/messages/count_tokens")).status).toBe(429);
  expect((await ask("/v1/messages")).status).toBe(200);
  patience.failed(
    { ownerId: "ada", sessionId: "ses_1", turn: 1, agent: "" },
    { kind: "refused", status: 429, said: "", retryAfterMs: 3_600_000 },
  );
  expect((await ask("/v1/messages/count_tokens")).headers.get("retry-after")).toBe("3600");
  expect((await ask("/v1/messages")).status).toBe(429);
});

/** Notes what counts as a failure of the provider. */
function watchedPatience() {
  const failures: string[] = [];
  const patience = createPatience({ tries: 3 });
  const failed: typeof patience.failed = (asker, failure) => {
    failures.push(failure.kind);
    return patience.failed(asker, failure);
  };
  return { failures, patience: { ...patience, failed } };
}

test("an agent that does not read its answer is let go, and that is no silence of the provider", async () => {
  const { failures, patience } = watchedPatience();
  const left = Promise.withResolvers<void>();
  const over = Promise.withResolvers<void>();
  const url = await gatewayTo(
    (_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      const pour = (): void => {
        while (response.write(": and on\n".repeat(10_000)));
      };
      response.on("drain", pour).once("close", left.resolve);
      pour();
    },
    { patience, silenceMs: 200, track: (_sessionId, done) => void done.then(over.resolve) },
  );
  const agent = http.request(`${url}/v1/messages`, { method: "POST", headers: { "x-api-key": "phantom" } });
  // Its answer is there and is not read.
  agent.on("error", () => undefined).on("response", (answer) => answer.on("error", () => undefined).pause());
  agent.end("{}");
  await left.promise;
  await over.promise;
  expect(failures).toEqual([]);
  agent.destroy();
});

test("an agent that does not say all it asks is told so, and that is no silence of the provider either", async () => {
  const { failures, patience } = watchedPatience();
  const url = await gatewayTo((request) => void request.resume(), { patience, silenceMs: 100 });
  const agent = http.request(`${url}/v1/messages`, { method: "POST", headers: { "x-api-key": "phantom", "content-length": 10 } });
  agent.on("error", () => undefined).write("{");
  const status = await new Promise((resolve) => agent.on("response", (answer) => resolve(answer.resume().statusCode)));
  expect([status, failures]).toEqual([408, []]);
  agent.destroy();
});

test("a provider that says nothing, or no more, is silent", async () => {
  const { failures, patience } = watchedPatience();
  const begin = { "content-type": "text/event-stream" };
  const ask = await askerOf(
    (request, response) => void (request.url?.includes("beta") && response.writeHead(200, begin).write(": half\n\n")),
    {
      patience,
      silenceMs: 100,
    },
  );
  expect((await ask("/v1/messages")).status).toBe(504);
  const answer = await ask("/v1/messages?beta=true");
  expect([answer.status, await answer.text()]).toEqual([200, expect.stringMatching(/^: half\n\nevent: error\n/)]);
  expect(failures).toEqual(["silent", "silent"]);
});
