/** The runner's spool: what one process writes is what another reads, however the first one ended and whoever else wrote. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { RunnerEventSchema } from "../../../gen/carrel/runner/v1/runner_service_pb.ts";
import { openSpool, type Spool } from "../../../runner/spool.ts";
import { readSpool } from "../../../server/runners/spool.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

const epoch = 7;
const headBytes = 16;

let directory: string;
let file: string;
beforeEach(() => {
  directory = makeTemporaryDirectory("spool");
  file = path.join(directory, "events");
});
afterEach(() => removeDirectory(directory));

function open(of = epoch): Spool {
  return openSpool(file, of, (error) => {
    throw error;
  });
}

function event(message: string): Uint8Array {
  return toBinary(
    RunnerEventSchema,
    create(RunnerEventSchema, { createdAtMs: 1, payload: { kind: { case: "system", value: { subtype: "s", message } } } }),
  );
}

/** The numbers and messages that are read, in order. */
async function read(of = epoch): Promise<[number, string][]> {
  const found: [number, string][] = [];
  for await (const { firstRunnerSeq, events } of readSpool(file, of)) {
    for (const [index, { payload }] of events.entries()) {
      found.push([firstRunnerSeq + index, payload?.kind.case === "system" ? payload.kind.value.message : "?"]);
    }
  }
  return found;
}

/** The first number and the size of each batch. */
async function batches(): Promise<[number, number][]> {
  const found: [number, number][] = [];
  for await (const { firstRunnerSeq, events } of readSpool(file, epoch)) found.push([firstRunnerSeq, events.length]);
  return found;
}

/** A file of three events, as the runner leaves it. */
function threeEvents(): Buffer {
  open().append(["one", "two", "three"].map(event));
  return readFileSync(file);
}

const allThree = [
  [1, "one"],
  [2, "two"],
  [3, "three"],
];

test("what was appended is read in order with its numbers; what was acknowledged is gone once nothing waits", async () => {
  const spool = open();
  expect(await read()).toEqual([]);
  spool.append([event("one")]);
  spool.append([event("two"), event("three")]);
  expect(await read()).toEqual(allThree);
  spool.acknowledge(2);
  spool.append([event("four")]);
  expect((await read()).at(-1)).toEqual([4, "four"]);
  spool.acknowledge(2);
  expect([await read(), statSync(file).size]).toEqual([[], headBytes]);
  spool.append([event("five")]);
  expect(await read()).toEqual([[5, "five"]]);
});

test("every event that waits is read, whatever is appended and acknowledged before", async () => {
  const step = fc.oneof(fc.array(fc.string({ maxLength: 40 }), { maxLength: 4 }), fc.nat({ max: 6 }));
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      rmSync(file, { force: true });
      const spool = open();
      const all: [number, string][] = [];
      let acknowledged = 0;
      for (const one of steps) {
        if (typeof one === "number") {
          const count = Math.min(one, all.length - acknowledged);
          spool.acknowledge(count);
          acknowledged += count;
        } else {
          spool.append(one.map(event));
          for (const message of one) all.push([all.length + 1, message]);
        }
      }
      expect((await read()).filter(([seq]) => seq > acknowledged)).toEqual(all.slice(acknowledged));
    }),
    { numRuns: 100 },
  );
});

test("a runner that is always ahead does not make the file grow: what is acknowledged is left out again", async () => {
  const spool = open();
  const large = "x".repeat(1024 * 1024 - 100);
  spool.append([event("first")]);
  for (let index = 0; index < 60; index += 1) {
    spool.append([event(`${index} ${large}`)]);
    spool.acknowledge(1);
    expect(statSync(file).size).toBeLessThan(20 * 1024 * 1024);
  }
  expect((await read()).at(-1)).toEqual([61, `59 ${large}`]);
  expect(statSync(directory).isDirectory() && readFileSync(file).toString("latin1", 0, 12)).toBe("carrel-spool");
});

test("many events come in batches that one transaction can take", async () => {
  open().append(Array.from({ length: 1_000 }, (_, index) => event(`${index}`)));
  expect(await batches()).toEqual([1, 201, 401, 601, 801].map((first) => [first, 200]));
  rmSync(file);
  open().append(Array.from({ length: 8 }, () => event("x".repeat(100_000))));
  expect(await batches()).toEqual([1, 3, 5, 7].map((first) => [first, 2]));
});

test("an event that was not written to its end is not read, and those before it are, wherever the end is", async () => {
  const whole = threeEvents();
  const ends = new Map<number, number>();
  for (let length = 0; length <= whole.length; length += 1) {
    writeFileSync(file, whole.subarray(0, length));
    const found = await read();
    expect(found).toEqual(allThree.slice(0, found.length));
    ends.set(found.length, length);
  }
  expect([...ends.keys()]).toEqual([0, 1, 2, 3]);
  expect(ends.get(3)).toBe(whole.length);
});

test("a changed bit ends the reading before the event that it is in", async () => {
  const whole = threeEvents();
  const size = event("one").length + 12;
  for (let bit = headBytes * 8; bit < whole.length * 8; bit += 1) {
    const changed = Buffer.from(whole);
    changed[bit >> 3]! ^= 1 << (bit & 7);
    writeFileSync(file, changed);
    const before = (bit >> 3) - headBytes < size ? 0 : (bit >> 3) - headBytes < 2 * size ? 1 : 2;
    expect(await read()).toEqual(allThree.slice(0, before));
  }
});

test("events of another epoch, without a head, or not in order are not read", async () => {
  const whole = threeEvents();
  expect(await read(epoch + 2)).toEqual([]);
  const [head, size] = [whole.subarray(0, headBytes), event("one").length + 12];
  const [one, two] = [whole.subarray(headBytes, headBytes + size), whole.subarray(headBytes + size, headBytes + 2 * size)];
  const cases: [Buffer[], number[]][] = [
    [[one, two], []],
    [[head, one, one], [1]],
    [[head, two, one], [2]],
    [[head, one, whole.subarray(headBytes + 2 * size)], [1]],
    [[head, two], [2]],
  ];
  for (const [parts, seqs] of cases) {
    writeFileSync(file, Buffer.concat(parts));
    expect((await read()).map(([seq]) => seq)).toEqual(seqs);
  }
});

test("a kind of event that is not the runner's to report ends the reading, and so does what is no event", async () => {
  const foreign = create(RunnerEventSchema, { payload: { kind: { case: "sessionEnd", value: {} } } });
  const badId = create(RunnerEventSchema, { payload: { kind: { case: "sdkSessionId", value: { id: "a\0b" } } } });
  for (const bytes of [
    toBinary(RunnerEventSchema, foreign),
    toBinary(RunnerEventSchema, badId),
    Buffer.from("ffffffff", "hex"),
    Buffer.alloc(0),
  ]) {
    rmSync(file, { force: true });
    open().append([event("one"), bytes, event("three")]);
    expect(await read()).toEqual([[1, "one"]]);
  }
});

test("garbage is nothing, of any length", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.boolean(), async (garbage, withHead) => {
      rmSync(file, { force: true });
      open();
      writeFileSync(file, garbage, withHead ? { flag: "a" } : {});
      expect(await read()).toEqual([]);
    }),
    { numRuns: 200 },
  );
});

test("what is no plain file in its place is not read, followed or waited for", async () => {
  const whole = threeEvents();
  const elsewhere = path.join(directory, "elsewhere");
  writeFileSync(elsewhere, whole);
  const places: (() => unknown)[] = [
    () => undefined,
    () => symlinkSync(elsewhere, file),
    () => execFileSync("mkfifo", [file]),
    () => mkdirSync(file),
    () => symlinkSync("/dev/zero", file),
  ];
  for (const place of places) {
    rmSync(file, { recursive: true, force: true });
    place();
    expect(await read()).toEqual([]);
  }
  rmSync(file, { recursive: true, force: true });
  const socket = createServer();
  await new Promise<void>((resolve) => socket.listen(file, resolve));
  expect(await read()).toEqual([]);
  await new Promise((resolve) => socket.close(resolve));
});

test("a file larger than any runner writes is not read, and an event larger than any runner sends ends it", async () => {
  const whole = threeEvents();
  truncateSync(file, 96 * 1024 * 1024 + 1);
  expect(await read()).toEqual([]);
  truncateSync(file, 96 * 1024 * 1024);
  expect(await read()).toEqual(allThree);
  const claim = Buffer.alloc(12);
  claim.writeUInt32BE(0xffffffff, 0);
  claim.writeUInt32BE(4, 4);
  writeFileSync(file, Buffer.concat([whole, claim]));
  expect(await read()).toEqual(allThree);
});

test("without room the spool says so once and keeps nothing until all is acknowledged; then it is whole again", async () => {
  const reported: string[] = [];
  const spool = openSpool(file, epoch, (error) => reported.push(error.message));
  spool.append([event("one")]);
  const limit = (bytes: string) => execFileSync("prlimit", ["--pid", String(process.pid), `--fsize=${bytes}:`]);
  const ignore = (): void => undefined;
  process.on("SIGXFSZ", ignore);
  limit("100");
  spool.append([event("x".repeat(200))]);
  spool.append([event("three")]);
  limit("unlimited");
  process.off("SIGXFSZ", ignore);
  expect(reported).toEqual(["the spool cannot be written"]);
  expect(await read()).toEqual([[1, "one"]]);
  spool.acknowledge(1);
  spool.append([event("four")]);
  expect(await read()).toEqual([[1, "one"]]);
  spool.acknowledge(3);
  spool.append([event("five")]);
  expect(await read()).toEqual([[5, "five"]]);
});
