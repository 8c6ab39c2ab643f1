import { describe, expect, it } from "vitest";
import { createHistoryWriter } from "../../../server/channel/websocket/history.ts";
import { createMessageRate } from "../../../server/channel/websocket/message-rate.ts";
import { createOutbox } from "../../../server/channel/websocket/outbox.ts";
import { outcomeOf } from "../identity/problem-of.ts";

const sessionId = `ses_${"1".repeat(32)}`;

/** A socket whose client reads only when told to. */
function slowSocket() {
  const waiting: { bytes: number; written: () => void }[] = [];
  const messages: string[] = [];
  let message = "";
  return {
    messages,
    get bufferedAmount() {
      return waiting.reduce((sum, { bytes }) => sum + bytes, 0);
    },
    send(data: unknown, options: unknown, written?: unknown) {
      message += String(data);
      if ((options as { fin: boolean }).fin) {
        messages.push(message);
        message = "";
      }
      waiting.push({ bytes: (data as Buffer).byteLength, written: written as () => void });
    },
    take(count = waiting.length) {
      for (const { written } of waiting.splice(0, count)) written();
    },
  };
}

const outboxOf = (socket: ReturnType<typeof slowSocket>, limits = { queueBytes: 200, stalledMs: 10_000 }) => createOutbox(socket, limits);
const bytes = (length: number, character = "x") => Buffer.from(character.repeat(length));
const forever = new AbortController().signal;

describe("an outbox", () => {
  it("has room until half of the queue is full, and again when the client has read", async () => {
    const socket = slowSocket();
    const outbox = outboxOf(socket);
    outbox.send(bytes(100));
    await outbox.room(forever);
    outbox.send(bytes(1));
    let room = false;
    const waiting = outbox.room(forever).then(() => {
      room = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect([outbox.full, room]).toEqual([true, false]);
    socket.take(1);
    await waiting;
    expect(outbox.full).toBe(false);
  });

  it("keeps other messages behind one that is sent in parts, and counts them", () => {
    const socket = slowSocket();
    const outbox = outboxOf(socket);
    outbox.sendPart(bytes(1, "a"), false);
    outbox.send(bytes(150, "b"));
    expect(outbox.full).toBe(true);
    outbox.sendPart(bytes(1, "c"), true);
    outbox.send(bytes(1, "d"));
    expect(socket.messages).toEqual(["ac", "b".repeat(150), "d"]);
  });

  it("gives up on a client that takes nothing, but not on one that takes little", async () => {
    const socket = slowSocket();
    const outbox = outboxOf(socket, { queueBytes: 20, stalledMs: 60 });
    for (let index = 0; index < 40; index++) outbox.send(bytes(1));
    const reading = setInterval(() => socket.take(1), 20);
    await outbox.room(forever);
    clearInterval(reading);
    outbox.send(bytes(40));
    expect(await outcomeOf(outbox.room(forever))).toBe("READER_TOO_SLOW");
  });

  it("stops waiting with the reason of the signal", async () => {
    const socket = slowSocket();
    const outbox = outboxOf(socket);
    outbox.send(bytes(201));
    const controller = new AbortController();
    const room = outbox.room(controller.signal);
    controller.abort(new Error("gone"));
    await expect(room).rejects.toThrow("gone");
    await expect(outbox.room(controller.signal)).rejects.toThrow("gone");
  });
});

type History = { type: string; payload: { messages: { seq: number }[]; complete: boolean } };

function historyOf(count: number, size: number, historyFrameBytes: number): { sizes: number[]; frames: History[] } {
  const socket = slowSocket();
  const history = createHistoryWriter(sessionId, outboxOf(socket), { historyFrameBytes });
  for (let seq = 1; seq <= count; seq++) history.add(Buffer.from(JSON.stringify({ seq, pad: "p".repeat(size) })));
  history.finish();
  return {
    sizes: socket.messages.map((text) => Buffer.byteLength(text)),
    frames: socket.messages.map((text) => JSON.parse(text) as History),
  };
}

describe("the history", () => {
  it("of nothing is one complete frame", () => {
    const { frames } = historyOf(0, 0, 1000);
    expect(frames).toMatchObject([{ type: "history", payload: { messages: [], complete: true } }]);
  });

  it.each([
    [1, 10, 1_000_000],
    [50, 0, 1_000],
    [500, 1_000, 100_000],
    [7, 40_000, 100_000],
    [5, 5_000, 1_000],
  ])("of %i messages of %i bytes comes whole and in order in frames of at most %i bytes", (count, size, limit) => {
    const { frames, sizes } = historyOf(count, size, limit);
    expect(frames.flatMap(({ payload }) => payload.messages.map(({ seq }) => seq))).toEqual(
      Array.from({ length: count }, (_, index) => index + 1),
    );
    expect(frames.map(({ payload }) => payload.complete)).toEqual(frames.map((_, index) => index === frames.length - 1));
    for (const [index, bytesOfFrame] of sizes.entries()) {
      if ((frames[index]?.payload.messages.length ?? 0) > 1) expect(bytesOfFrame).toBeLessThanOrEqual(limit);
    }
  });

  it("fills its frames", () => {
    const { sizes } = historyOf(500, 1_000, 100_000);
    for (const size of sizes.slice(0, -1)) expect(size).toBeGreaterThan(98_000);
  });
});

describe("the message rate", () => {
  it("lets N pass in any second, refuses the next, and says how long", () => {
    const rate = createMessageRate(3);
    expect([0, 100, 200, 300].map((now) => rate.admit(now))).toEqual([0, 0, 0, 700]);
    expect(rate.admit(999)).toBe(1);
    expect(rate.admit(1_000)).toBe(0);
    expect(rate.admit(1_050)).toBe(50);
    expect(rate.admit(1_100)).toBe(0);
  });

  it("knows how long a flood has gone on, and when it is over", () => {
    const rate = createMessageRate(1);
    for (let now = 0; now <= 5_000; now += 100) rate.admit(now);
    expect(rate.floodedFor(5_000)).toBe(4_800);
    expect(rate.floodedFor(7_000)).toBe(0);
    rate.admit(7_000);
    rate.admit(7_001);
    expect(rate.floodedFor(7_001)).toBe(0);
  });
});
