// Reads the spool that a runner left behind; the format is described where it is written (runner/spool.ts). Whatever ran in
// the sandbox could write this file, so it proves no more than a call of that runner would have.
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { fromBinary } from "@bufbuild/protobuf";
import { type RunnerEvent, RunnerEventSchema } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import type { Report } from "./report.ts";
import { isReportable } from "./rules.ts";

const mark = "carrel-spool";
const headBytes = 16;
const eventHeadBytes = 12;
/** The most that a runner lets wait, and what may lie acknowledged before it. */
const fileBytes = 96 * 1024 * 1024;
/** What the runner's own channel would have let through. */
const eventBytes = 4 * 1024 * 1024;
const batchEvents = 200;
const batchBytes = 256 * 1024;
const chunkBytes = 1024 * 1024;

/** Where there is no file, or something else than a file, there is nothing to read. */
const absent: ReadonlySet<string | undefined> = new Set(["ENOENT", "ELOOP", "ENOTDIR", "EACCES", "ENXIO"]);

/**
 * What the runner of this epoch has written, in batches. The first thing that its runner would not have written there ends
 * the reading: another epoch, a number out of order, a wrong sum, a file that is too large.
 */
export async function* readSpool(path: string, epoch: number): AsyncGenerator<Report> {
  const file = await openPlainFile(path);
  if (!file) return;
  try {
    let batch: Report & { events: RunnerEvent[]; bytes: number } = { firstRunnerSeq: 0, events: [], bytes: 0 };
    for await (const { seq, event, bytes } of eventsOf(file, epoch)) {
      if (batch.events.length === batchEvents || batch.bytes + bytes > batchBytes) {
        if (batch.events.length > 0) yield batch;
        batch = { firstRunnerSeq: 0, events: [], bytes: 0 };
      }
      batch.firstRunnerSeq ||= seq;
      batch.events.push(event);
      batch.bytes += bytes;
    }
    if (batch.events.length > 0) yield batch;
  } finally {
    await file.close();
  }
}

async function openPlainFile(path: string): Promise<FileHandle | undefined> {
  let file: FileHandle;
  try {
    // Without O_NONBLOCK a FIFO would wait for somebody to write to it.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (absent.has((error as NodeJS.ErrnoException).code)) return undefined;
    throw error;
  }
  const status = await file.stat();
  if (status.isFile() && status.size <= fileBytes) return file;
  await file.close();
  return undefined;
}

type SpooledEvent = { seq: number; event: RunnerEvent; bytes: number };

async function* eventsOf(file: FileHandle, epoch: number): AsyncGenerator<SpooledEvent> {
  let rest = Buffer.alloc(0);
  let isHeadRead = false;
  let lastSeq: number | undefined;
  for (let position = 0; position < fileBytes; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(chunkBytes), 0, chunkBytes, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    rest = Buffer.concat([rest, buffer.subarray(0, bytesRead)]);
    if (!isHeadRead) {
      if (!isHead(rest, epoch)) return;
      rest = rest.subarray(headBytes);
      isHeadRead = true;
    }
    for (;;) {
      const next = firstEvent(rest);
      if (next === "incomplete") break;
      if (next === "wrong" || next.seq !== (lastSeq ?? next.seq - 1) + 1) return;
      yield next;
      lastSeq = next.seq;
      rest = rest.subarray(eventHeadBytes + next.bytes);
    }
  }
}

function isHead(bytes: Buffer, epoch: number): boolean {
  return bytes.length >= headBytes && bytes.toString("latin1", 0, mark.length) === mark && bytes.readUInt32BE(mark.length) === epoch;
}

function firstEvent(bytes: Buffer): SpooledEvent | "incomplete" | "wrong" {
  if (bytes.length < eventHeadBytes) return "incomplete";
  const length = bytes.readUInt32BE(0);
  if (length > eventBytes) return "wrong";
  if (bytes.length < eventHeadBytes + length) return "incomplete";
  const body = bytes.subarray(eventHeadBytes, eventHeadBytes + length);
  if (crc32(body, crc32(bytes.subarray(0, 8))) !== bytes.readUInt32BE(8)) return "wrong";
  const event = decoded(body);
  return event && isReportable(event.payload) ? { seq: bytes.readUInt32BE(4), event, bytes: length } : "wrong";
}

function decoded(bytes: Uint8Array): RunnerEvent | undefined {
  try {
    return fromBinary(RunnerEventSchema, bytes);
  } catch {
    // Whatever it is, it is no event.
    return undefined;
  }
}
