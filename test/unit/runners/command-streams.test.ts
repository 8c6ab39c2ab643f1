import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CommandSchema } from "../../../gen/carrel/runner/v1/command_pb.ts";
import { createCommandStreams } from "../../../server/runners/command-streams.ts";

const session = { id: "ses_1", epoch: 3, state: "running" as const };
const lease = { sessionId: session.id, epoch: 3 };
const never = new AbortController().signal;
const command = (id: number) => create(CommandSchema, { id, kind: { case: "interrupt", value: { turn: id } } });
const ids = (commands: readonly { id: number }[] | undefined) => commands?.map(({ id }) => id);

describe("what is committed in this process", () => {
  test("is handed over in order, once", async () => {
    const streams = createCommandStreams();
    const stream = streams.open(lease);
    expect(stream.take(4)).toEqual([]);
    const rung = stream.wait(60_000, never);
    streams.handOver(session, [command(5), command(6)]);
    expect(await rung).toBe("rung");
    streams.handOver(session, [command(7)]);
    expect([ids(stream.take(4)), ids(stream.take(7))]).toEqual([[5, 6, 7], []]);
  });

  test("is left to the table after a gap, and after more than a runner should leave waiting", () => {
    const streams = createCommandStreams();
    const stream = streams.open(lease);
    streams.handOver(session, [command(6)]);
    expect(stream.take(4)).toBeUndefined();
    for (let id = 7; id < 120; id += 1) streams.handOver(session, [command(id)]);
    expect([stream.take(6), ids(stream.take(119))]).toEqual([undefined, []]);
  });

  test("rings nobody else: not other sessions, and not without a command", async () => {
    const streams = createCommandStreams();
    const stream = streams.open(lease);
    streams.handOver({ ...session, id: "ses_2" }, [command(1)]);
    streams.handOver(session, []);
    expect(await stream.wait(5, never)).toBe("timeout");
  });
});

describe("the table is read", () => {
  test("after a ring of another process, of this session or of all, and after a time without one", async () => {
    const streams = createCommandStreams();
    const stream = streams.open(lease);
    streams.ring("ses_2");
    expect(stream.take(0)).toEqual([]);
    for (const rung of [session.id, undefined]) {
      streams.ring(rung);
      expect([await stream.wait(60_000, never), stream.take(0), stream.take(0)]).toEqual(["rung", undefined, []]);
    }
    expect([await stream.wait(5, never), stream.take(0)]).toEqual(["timeout", undefined]);
  });

  test("when the lease is over: by a newer epoch, with or without commands, and by the end of the session", async () => {
    for (const change of [{ epoch: 4 }, { state: "ended" as const }]) {
      for (const commands of [[], [command(1)]]) {
        const streams = createCommandStreams();
        const stream = streams.open(lease);
        const rung = stream.wait(60_000, never);
        streams.handOver({ ...session, ...change }, commands);
        expect([await rung, stream.take(0), stream.take(0)]).toEqual(["rung", undefined, []]);
      }
    }
  });
});

test("a wait ends with its call, and a closed stream is handed nothing", async () => {
  const streams = createCommandStreams();
  const stream = streams.open(lease);
  const call = new AbortController();
  const waiting = stream.wait(60_000, call.signal);
  call.abort();
  expect([await waiting, await stream.wait(60_000, call.signal)]).toEqual(["rung", "rung"]);
  stream.close();
  streams.handOver(session, [command(1)]);
  expect(stream.take(0)).toEqual([]);
});

test("whatever order commits become known in, a reader that asks the table where it is told to gets every command once", () => {
  const step = fc.oneof(fc.constant("take" as const), fc.constant("ring" as const), fc.nat(7));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const streams = createCommandStreams();
      const stream = streams.open(lease);
      const table: number[] = [];
      const late: number[] = [];
      const got: number[] = [];
      const take = () => {
        const cursor = got.at(-1) ?? 0;
        got.push(...(ids(stream.take(cursor)) ?? table.filter((id) => id > cursor)));
      };
      for (const one of steps) {
        if (one === "take") take();
        else if (one === "ring") streams.ring(session.id);
        else {
          // Committed now; told of now, or after those that follow.
          table.push(table.length + 1);
          late.push(table.length);
          if (one > 2) for (const id of one % 2 ? late.splice(0) : late.splice(0).reverse()) streams.handOver(session, [command(id)]);
        }
      }
      for (const id of late) streams.handOver(session, [command(id)]);
      take();
      expect(got).toEqual(table);
    }),
  );
});
