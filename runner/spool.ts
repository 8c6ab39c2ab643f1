import { closeSync, ftruncateSync, openSync, readSync, renameSync, rmSync, writeSync } from "node:fs";
import { crc32 } from "node:zlib";

/**
 * What was reported and is not acknowledged yet, in a file that the control plane reads when this process is gone: 16 bytes
 * of head (a mark of 12, the epoch), then for each event 12 bytes (length, runner_seq, CRC-32 of these two and the event)
 * and the event itself, a RunnerEvent. All numbers are unsigned, 32 bits, big-endian. An event that was not written to its
 * end does not match its sum and ends the file.
 */
export type Spool = {
  /** Numbers the events on from the last one. When it returns they outlive this process; the directory is memory, so no disk is waited for. */
  append(events: readonly Uint8Array[]): void;
  /** The oldest `count` events need not be kept any longer. */
  acknowledge(count: number): void;
};

const mark = "carrel-spool";
const headBytes = 16;
const eventHeadBytes = 12;
/** Acknowledged events that may lie before others before the file is written anew without them. */
const reclaimBytes = 16 * 1024 * 1024;

/**
 * Opens an empty spool. One that cannot be written (no memory is left) says so once and keeps nothing more until all of it is
 * acknowledged: its events still wait in this process.
 */
export function openSpool(path: string, epoch: number, report: (error: Error) => void): Spool {
  let file = begin(path, epoch);
  let start = headBytes;
  let end = headBytes;
  let lastSeq = 0;
  let isBroken = false;
  /** Of the events that are not acknowledged; 0 for one that is not in the file. */
  let lengths: number[] = [];

  const attempt = (write: () => void): void => {
    if (isBroken) return;
    try {
      write();
    } catch (error) {
      isBroken = true;
      report(new Error("the spool cannot be written", { cause: error }));
    }
  };
  const restart = (): void => {
    isBroken = false;
    attempt(() => {
      ftruncateSync(file, headBytes);
      start = end = headBytes;
    });
  };
  const compact = (): void => {
    const aside = `${path}.new`;
    try {
      const next = begin(aside, epoch);
      copy(file, start, end, next);
      renameSync(aside, path);
      closeSync(file);
      file = next;
      end -= start - headBytes;
      start = headBytes;
    } finally {
      rmSync(aside, { force: true });
    }
  };

  return {
    append(events) {
      const records = events.map((event) => record((lastSeq += 1), event));
      attempt(() => {
        writeAll(file, Buffer.concat(records), end);
        for (const { length } of records) end += length;
      });
      lengths.push(...records.map(({ length }) => (isBroken ? 0 : length)));
    },
    acknowledge(count) {
      for (const length of lengths.slice(0, count)) start += length;
      lengths = lengths.slice(count);
      if (lengths.length === 0) restart();
      else if (start - headBytes > reclaimBytes) attempt(compact);
    },
  };
}

function begin(path: string, epoch: number): number {
  const file = openSync(path, "w+", 0o600);
  const head = Buffer.alloc(headBytes);
  head.write(mark, "latin1");
  head.writeUInt32BE(epoch, mark.length);
  writeAll(file, head, 0);
  return file;
}

function record(seq: number, event: Uint8Array): Buffer {
  const head = Buffer.alloc(eventHeadBytes);
  head.writeUInt32BE(event.length, 0);
  head.writeUInt32BE(seq, 4);
  head.writeUInt32BE(crc32(event, crc32(head.subarray(0, 8))), 8);
  return Buffer.concat([head, event]);
}

function writeAll(file: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done, bytes.length - done, position + done);
}

function copy(from: number, start: number, end: number, to: number): void {
  const buffer = Buffer.alloc(1024 * 1024);
  for (let done = 0; done < end - start; ) {
    const length = readSync(from, buffer, 0, Math.min(buffer.length, end - start - done), start + done);
    if (length === 0) throw new Error("the spool is shorter than what was written to it");
    writeAll(to, buffer.subarray(0, length), headBytes + done);
    done += length;
  }
}
