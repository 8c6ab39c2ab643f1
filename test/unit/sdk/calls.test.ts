import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { afterEach, describe, expect, test } from "vitest";
import { ChannelService } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { ErrorReason } from "../../../gen/carrel/v1/error_reason_pb.ts";
import { DeltaSchema, EventSchema } from "../../../gen/carrel/v1/event_pb.ts";
import { SessionSchema, SessionStatus, SessionStatusSchema } from "../../../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../../../gen/carrel/v1/session_service_pb.ts";
import { ErrorInfoSchema, RetryInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { createCarrel as createBrowserCarrel } from "../../../sdk/browser.ts";
import {
  createCarrel,
  createLiveBlocks,
  messageOf,
  metadataOf,
  reasonOf,
  retryAfterMsOf,
  retrying,
  toProductJson,
  valueOfWord,
  wordOf,
} from "../../../sdk/node.ts";
import { type Served, serve } from "./serve.ts";

const opened: Served[] = [];
afterEach(async () => void (await Promise.all(opened.splice(0).map((served) => served.close()))));

async function served(routes: (router: ConnectRouter) => void, httpVersion: "1.1" | "2" = "2"): Promise<string> {
  const one = await serve(routes, httpVersion);
  opened.push(one);
  return one.url;
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const refused = (reason: string, code: Code, metadata: Record<string, string> = {}) =>
  new ConnectError("no", code, undefined, [{ desc: ErrorInfoSchema, value: { reason, domain: "carrel", metadata } }]);

describe("errors", () => {
  const routes = (router: ConnectRouter) =>
    router.service(SessionService, {
      getSession: () => {
        throw refused("SESSION_LIMIT", Code.ResourceExhausted, { limit: "10" });
      },
    });

  test.each([
    { protocol: "connect", httpVersion: "2" },
    { protocol: "connect", httpVersion: "1.1" },
    { protocol: "grpc", httpVersion: "2" },
    { protocol: "grpc-web", httpVersion: "2" },
    { protocol: "grpc-web", httpVersion: "1.1" },
  ] as const)("carry their reason and metadata over $protocol, HTTP/$httpVersion", async ({ protocol, httpVersion }) => {
    const carrel = createCarrel({ baseUrl: await served(routes, httpVersion), protocol, httpVersion });
    const error = await carrel.sessions.getSession({}).catch((reason: unknown) => reason);
    expect(reasonOf(error)).toBe(ErrorReason.SESSION_LIMIT);
    expect(metadataOf(error)).toEqual({ limit: "10" });
    expect(messageOf(error)).toBe("no");
    carrel.close();
  });

  test.each(["connect", "grpc-web"] as const)("carry their reason to a browser over %s", async (protocol) => {
    const carrel = createBrowserCarrel({ baseUrl: await served(routes, "1.1"), protocol });
    expect(reasonOf(await carrel.sessions.getSession({}).catch((reason: unknown) => reason))).toBe(ErrorReason.SESSION_LIMIT);
  });

  test("that are not Carrel's have no reason", () => {
    expect(reasonOf(new ConnectError("x", Code.Unavailable))).toBeUndefined();
    expect(reasonOf(new Error("x"))).toBeUndefined();
    expect(metadataOf("x")).toEqual({});
    expect(
      reasonOf(
        new ConnectError("x", Code.NotFound, undefined, [{ desc: ErrorInfoSchema, value: { reason: "NOT_FOUND", domain: "else" } }]),
      ),
    ).toBeUndefined();
  });

  test("say when to try again", () => {
    const withInfo = new ConnectError("x", Code.ResourceExhausted, undefined, [
      { desc: RetryInfoSchema, value: { retryDelay: { seconds: 3n, nanos: 500_000_000 } } },
    ]);
    expect(retryAfterMsOf(withInfo)).toBe(3500);
    expect(retryAfterMsOf(refused("RATE_LIMITED", Code.ResourceExhausted, { retry_after_seconds: "7" }))).toBe(7000);
    expect(retryAfterMsOf(new Error("x"))).toBeUndefined();
  });
});

describe("tokens", () => {
  const routes = (seen: (string | null)[]) => (router: ConnectRouter) =>
    router.service(SessionService, {
      getSession(_request, { requestHeader }) {
        seen.push(requestHeader.get("authorization"));
        if (requestHeader.get("authorization") !== "Bearer good") throw refused("UNAUTHENTICATED", Code.Unauthenticated);
        return {};
      },
    });

  test("are fetched once and again after UNAUTHENTICATED", async () => {
    const seen: (string | null)[] = [];
    const offered = ["stale", "good"];
    const carrel = createCarrel({ baseUrl: await served(routes(seen)), token: async () => offered.shift() });
    await carrel.sessions.getSession({});
    await carrel.sessions.getSession({});
    expect(seen).toEqual(["Bearer stale", "Bearer good", "Bearer good"]);
    carrel.close();
  });

  test("given as a string are not tried twice", async () => {
    const seen: (string | null)[] = [];
    const carrel = createCarrel({ baseUrl: await served(routes(seen)), token: "bad" });
    expect(reasonOf(await carrel.sessions.getSession({}).catch((reason: unknown) => reason))).toBe(ErrorReason.UNAUTHENTICATED);
    expect(seen).toEqual(["Bearer bad"]);
    carrel.close();
  });

  test("are asked for again after their source failed", async () => {
    let asked = 0;
    const carrel = createCarrel({
      baseUrl: await served(routes([])),
      token: () => {
        if (++asked === 1) throw new Error("no network");
        return "good";
      },
    });
    await expect(carrel.sessions.getSession({})).rejects.toThrow("no network");
    await carrel.sessions.getSession({});
    carrel.close();
  });
});

describe("pages", () => {
  test("of sessions are read until there is no cursor", async () => {
    const carrel = createCarrel({
      baseUrl: await served((router) =>
        router.service(SessionService, {
          listSessions: ({ cursor, status }) => ({
            sessions: [{ id: `${cursor || "first"} ${status}` }],
            nextCursor: { "": "second", second: "third" }[cursor] ?? "",
          }),
        }),
      ),
    });
    const ids = (await collect(carrel.allSessions({ status: SessionStatus.RUNNING }))).map(({ id }) => id);
    expect(ids).toEqual(["first 2", "second 2", "third 2"]);
    carrel.close();
  });

  test("of events are read to the end of the log", async () => {
    const carrel = createCarrel({
      baseUrl: await served((router) =>
        router.service(ChannelService, {
          listEvents: ({ afterSeq }) => ({
            events: [1, 2].map((step) => ({ seq: afterSeq + step })).filter(({ seq }) => seq <= 5),
            lastSeq: 5,
          }),
        }),
      ),
    });
    expect((await collect(carrel.allEvents("s"))).map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5]);
    expect(await collect(carrel.allEvents("s", { afterSeq: 5 }))).toEqual([]);
    carrel.close();
  });
});

describe("retrying", () => {
  const quick = { firstDelayMs: 1, maxDelayMs: 2 };

  test("repeats what may pass and no more than told", async () => {
    let calls = 0;
    const flaky = async () => {
      if (++calls < 3) throw new ConnectError("later", Code.Unavailable);
      return calls;
    };
    expect(await retrying(flaky, quick)).toBe(3);
    calls = -10;
    await expect(retrying(flaky, { ...quick, tries: 2 })).rejects.toThrow("later");
    expect(calls).toBe(-8);
  });

  test("does not repeat a refusal", async () => {
    let calls = 0;
    await expect(
      retrying(async () => {
        calls++;
        throw refused("NO_CREDENTIALS", Code.PermissionDenied);
      }, quick),
    ).rejects.toThrow("no");
    expect(calls).toBe(1);
  });
});

describe("live blocks", () => {
  const delta = (offset: number, text: string) => create(DeltaSchema, { blockId: "b", offset, text });

  test("grow without repetition and stop at a lost piece", () => {
    const blocks = createLiveBlocks();
    expect(blocks.add(delta(0, "hel"))).toBe("hel");
    expect(blocks.add(delta(3, "lo"))).toBe("lo");
    expect(blocks.add(delta(3, "lo w"))).toBe(" w");
    expect(blocks.add(delta(0, "hel"))).toBe("");
    expect(blocks.add(delta(9, "ld"))).toBe("");
    expect(blocks.textOf("b")).toBe("hello w");
    blocks.finish("b");
    expect(blocks.textOf("b")).toBe("");
  });
});

describe("the product's words", () => {
  test("are read from the contract, older ones included", () => {
    expect(wordOf(SessionStatusSchema, SessionStatus.ENDED)).toBe("ended");
    expect(wordOf(SessionStatusSchema, 0)).toBe("");
    expect(valueOfWord(SessionStatusSchema, "failed")).toBe(SessionStatus.ENDED);
    expect(valueOfWord(SessionStatusSchema, "")).toBeUndefined();
    expect(valueOfWord(SessionStatusSchema, "nonsense")).toBeUndefined();
  });

  test("make the product's JSON", () => {
    const session = create(SessionSchema, { id: "s", status: SessionStatus.RUNNING, allowedTools: ["Read"], createdAt: { seconds: 0n } });
    expect(toProductJson(SessionSchema, session)).toMatchObject({
      id: "s",
      name: "",
      status: "running",
      user_state: null,
      created_at: "1970-01-01T00:00:00Z",
      terminated_at: null,
      exit_code: null,
      allowed_tools: ["Read"],
      denied_tools: [],
      usage: null,
      demo: false,
      cost_usd: 0,
    });
    const event = create(EventSchema, {
      seq: 4,
      payload: { kind: { case: "toolUse", value: { name: "Bash", input: { command: "ls", deep: [1, null] } } } },
    });
    expect(toProductJson(EventSchema, event)).toMatchObject({
      seq: 4,
      payload: { tool_use: { name: "Bash", input: { command: "ls", deep: [1, null] }, parent_tool_use_id: "" } },
    });
  });
});

test("nothing the browser entry reaches imports Node", () => {
  const directory = path.join(import.meta.dirname, "../../../sdk");
  for (const file of readdirSync(directory).filter((name) => name !== "node.ts")) {
    expect(readFileSync(path.join(directory, file), "utf8"), file).not.toMatch(/from "(node:|@connectrpc\/connect-node)/);
  }
});
