import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { afterEach, describe, expect, test } from "vitest";
import { ChannelService, type WatchEventsRequest, WatchEventsResponseSchema } from "../../../gen/carrel/v1/channel_service_pb.ts";
import { SessionStatus } from "../../../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../../../gen/carrel/v1/session_service_pb.ts";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { type Carrel, createCarrel, type WatchItem, type WatchOptions } from "../../../sdk/node.ts";
import { type Served, serve } from "./serve.ts";

type Item = MessageInitShape<typeof WatchEventsResponseSchema>["item"];
type Watch = (request: WatchEventsRequest, context: HandlerContext) => AsyncGenerator<Item>;

const sessionId = `ses_${"0".repeat(32)}`;
const fast: WatchOptions = { firstDelayMs: 1, maxDelayMs: 4 };
const opened: { served: Served[]; clients: Carrel[] } = { served: [], clients: [] };

afterEach(async () => {
  for (const client of opened.clients.splice(0)) client.close();
  await Promise.all(opened.served.splice(0).map((served) => served.close()));
});

type Setup = {
  status?: SessionStatus;
  lastSeq?: number;
  httpVersion?: "1.1" | "2";
  protocol?: "connect" | "grpc" | "grpc-web";
  token?: () => string;
};

async function watchOf(
  watch: Watch,
  { status = SessionStatus.RUNNING, lastSeq = 0, httpVersion = "2", protocol = "connect", token }: Setup = {},
) {
  const routes = (router: ConnectRouter) => {
    router.service(ChannelService, {
      async *watchEvents(request, context) {
        for await (const item of watch(request, context)) yield create(WatchEventsResponseSchema, item ? { item } : {});
      },
    });
    router.service(SessionService, { getSession: () => ({ session: { id: sessionId, status, lastSeq } }) });
  };
  const served = await serve(routes, httpVersion);
  const carrel = createCarrel({ baseUrl: served.url, httpVersion, protocol, token });
  opened.served.push(served);
  opened.clients.push(carrel);
  return { served, carrel };
}

const event = (seq: number): Item => ({
  case: "event",
  value: { seq, payload: { kind: { case: "system", value: { subtype: "note", message: `event ${seq}` } } } },
});
const end = (seq: number): Item => ({ case: "event", value: { seq, payload: { kind: { case: "sessionEnd", value: {} } } } });
const synced = (lastSeq: number): Item => ({ case: "synced", value: { lastSeq } });

async function collect(items: AsyncIterable<WatchItem>): Promise<WatchItem[]> {
  const all: WatchItem[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const seqs = (items: WatchItem[]) => items.flatMap((item) => (item.kind === "event" ? [item.event.seq] : []));
const upTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1);
const untilAborted = ({ signal }: HandlerContext) =>
  new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));

/** Sends a random stretch of the log and then breaks off in one of many ways. */
function cuttingServer(last: number, cuts: { left: number }, cutConnections: () => void): Watch {
  return async function* ({ afterSeq }) {
    // Now and then it repeats what the caller has, as a careless proxy or server might.
    const first = Math.random() < 0.3 ? Math.max(1, afterSeq - 2) : afterSeq + 1;
    const stretch = Math.floor(Math.random() * 4);
    for (let seq = first; seq <= last; seq++) {
      if (cuts.left > 0 && seq > afterSeq + stretch) {
        cuts.left--;
        const kind = Math.random();
        if (kind < 0.3) throw new ConnectError("later", Code.Unavailable);
        if (kind < 0.5) throw new Error("a fault");
        if (kind < 0.6) yield event(seq + 3);
        else if (kind < 0.8) cutConnections();
        return;
      }
      yield seq === last ? end(seq) : event(seq);
      if (seq === afterSeq + 1) yield synced(last);
    }
  };
}

describe("watch", () => {
  test.each([
    { protocol: "connect", httpVersion: "2" },
    { protocol: "connect", httpVersion: "1.1" },
    { protocol: "grpc", httpVersion: "2" },
    { protocol: "grpc-web", httpVersion: "1.1" },
  ] as const)(
    "yields each event once and in order through 500 cuts ($protocol over HTTP/$httpVersion)",
    { timeout: 30_000 },
    async (how) => {
      const last = 400;
      const cuts = { left: 500 };
      let cutConnections = () => {};
      const { served, carrel } = await watchOf((...call) => cuttingServer(last, cuts, () => cutConnections())(...call), how);
      cutConnections = served.cutConnections;
      let lost = 0;
      const items = await collect(carrel.watch(sessionId, { ...fast, onReconnecting: () => void lost++ }));
      expect(seqs(items)).toEqual(upTo(last));
      expect(items.filter((item) => item.kind === "synced")).toHaveLength(1);
      expect(lost).toBeGreaterThan(100);
    },
  );

  test("starts after the event the caller has", async () => {
    const { carrel } = await watchOf(async function* ({ afterSeq }) {
      for (let seq = afterSeq + 1; seq < 6; seq++) yield event(seq);
      yield end(6);
    });
    expect(seqs(await collect(carrel.watch(sessionId, { afterSeq: 3 })))).toEqual([4, 5, 6]);
  });

  test("passes deltas on as they come, and only when asked", async () => {
    const asked: boolean[] = [];
    const { carrel } = await watchOf(async function* ({ includeDeltas }) {
      asked.push(includeDeltas);
      if (includeDeltas) yield { case: "delta", value: { blockId: "b", text: "hel" } };
      yield end(1);
    });
    const kinds = (items: WatchItem[]) => items.map((item) => item.kind);
    expect(kinds(await collect(carrel.watch(sessionId, { includeDeltas: true })))).toEqual(["delta", "event"]);
    expect(kinds(await collect(carrel.watch(sessionId)))).toEqual(["event"]);
    expect(asked).toEqual([true, false]);
  });

  test("ends when the log of an ended session is read out, although its last event was seen before", async () => {
    const { carrel } = await watchOf(
      async function* () {
        yield synced(7);
      },
      { status: SessionStatus.ENDED, lastSeq: 7 },
    );
    expect(await collect(carrel.watch(sessionId, { afterSeq: 7 }))).toEqual([{ kind: "synced", lastSeq: 7 }]);
  });

  test("cuts a stream that says nothing, keep-alives included, and goes on", async () => {
    let calls = 0;
    const { carrel } = await watchOf(async function* (_request, context) {
      calls++;
      if (calls === 1) {
        yield event(1);
        await untilAborted(context);
        return;
      }
      yield end(2);
    });
    const lost: string[] = [];
    let back = 0;
    const options: WatchOptions = {
      ...fast,
      silenceMs: 60,
      onReconnecting: ({ error }) => void lost.push(String(error)),
      onReconnected: () => void back++,
    };
    expect(seqs(await collect(carrel.watch(sessionId, options)))).toEqual([1, 2]);
    expect(lost).toEqual([expect.stringContaining("nothing was heard for 60 ms")]);
    expect(back).toBe(1);
  });

  test("keep-alives keep a quiet stream, and a slow reader is not silence", async () => {
    let calls = 0;
    const { carrel } = await watchOf(async function* () {
      calls++;
      yield event(1);
      for (let beat = 0; beat < 5; beat++) {
        await new Promise((resolve) => setTimeout(resolve, 40));
        yield { case: "keepAlive", value: {} };
      }
      yield end(2);
    });
    const got: number[] = [];
    for await (const item of carrel.watch(sessionId, { ...fast, silenceMs: 120 })) {
      if (item.kind === "event") got.push(item.event.seq);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(got).toEqual([1, 2]);
    expect(calls).toBe(1);
  });

  test("ends without an error when it is aborted, and the server sees it", async () => {
    let gone = () => {};
    const left = new Promise<void>((resolve) => (gone = resolve));
    const { carrel } = await watchOf(async function* (_request, context) {
      yield event(1);
      await untilAborted(context);
      gone();
    });
    const abort = new AbortController();
    const got: WatchItem[] = [];
    for await (const item of carrel.watch(sessionId, { signal: abort.signal })) {
      got.push(item);
      setTimeout(() => abort.abort(), 10);
    }
    expect(seqs(got)).toEqual([1]);
    await left;
  });

  test("closes its stream when the reader stops", async () => {
    let gone = () => {};
    const left = new Promise<void>((resolve) => (gone = resolve));
    const { carrel } = await watchOf(async function* (_request, context) {
      yield event(1);
      yield event(2);
      await untilAborted(context);
      gone();
    });
    for await (const item of carrel.watch(sessionId)) if (item.kind === "event") break;
    await left;
  });

  test("a refusal that lasts is thrown at once", async () => {
    let calls = 0;
    const { carrel } = await watchOf(async function* () {
      if (++calls === 0) yield event(1);
      throw new ConnectError("session not found", Code.NotFound, undefined, [
        { desc: ErrorInfoSchema, value: { reason: "NOT_FOUND", domain: "carrel" } },
      ]);
    });
    await expect(collect(carrel.watch(sessionId, fast))).rejects.toThrow("session not found");
    expect(calls).toBe(1);
  });

  test("a log that really has a hole is an error, not an endless loop", async () => {
    const { carrel } = await watchOf(async function* ({ afterSeq }) {
      if (afterSeq === 0) yield event(1);
      yield event(3);
    });
    await expect(collect(carrel.watch(sessionId, fast))).rejects.toThrow("event 2 is missing");
  });

  test("an expired token is replaced in the middle of a watch", async () => {
    const tokens = ["old", "new"];
    const seen: (string | null)[] = [];
    const { carrel } = await watchOf(
      async function* ({ afterSeq }, { requestHeader }) {
        const authorization = requestHeader.get("authorization");
        seen.push(authorization);
        if (afterSeq === 0) yield event(1);
        if (authorization === "Bearer old") throw new ConnectError("token expired", Code.Unauthenticated);
        yield end(2);
      },
      { token: () => tokens.shift() ?? "none" },
    );
    expect(seqs(await collect(carrel.watch(sessionId, fast)))).toEqual([1, 2]);
    expect(seen).toEqual(["Bearer old", "Bearer new"]);
  });

  test("a token that stays refused is an error", async () => {
    let asked = 0;
    const { carrel } = await watchOf(
      async function* () {
        yield synced(0);
        throw new ConnectError("token expired", Code.Unauthenticated);
      },
      { token: () => `token ${++asked}` },
    );
    await expect(collect(carrel.watch(sessionId, fast))).rejects.toThrow("token expired");
    expect(asked).toBe(2);
  });

  test("gives up when told to and nothing is heard for so long", async () => {
    const { served, carrel } = await watchOf(async function* () {
      yield event(1);
    });
    await served.close();
    await expect(collect(carrel.watch(sessionId, { ...fast, giveUpAfterMs: 50 }))).rejects.toMatchObject({ code: Code.Unavailable });
  });
});
