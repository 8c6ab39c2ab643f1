// What an archive is: one Zstandard stream of a head and two parts, each of which is what tar makes of some entries.
//
//   mark | records, each ended by a zero byte | a zero byte | first part | second part
//
// A record is one of: `-` and a path that has to go before anything is unpacked; a mode in octal, a space and the path that is
// locked afterwards; `=`, when the first part is all that an agent reads as it starts; `+` and a directory of which it looks
// whether it is there. A part is pieces, each behind its length in four bytes, and ends with a length of 0. Archives of an earlier
// time have another mark or none, and one part, which is all that follows.
import { type BytePath, bytesOf } from "./listing.ts";
import { type Lock, locksOf, recordsOf } from "./locks.ts";

export type Head = {
  past: readonly BytePath[];
  locks: readonly Lock[];
  /** The directories of which an agent looks whether they are there; undefined when it needs both parts to start. */
  signs: readonly BytePath[] | undefined;
};

export type OpenArchive = Head & {
  /** In this order, each to its end. Throws when the archive was cut. Undefined in archives of one part. */
  first: AsyncIterable<Uint8Array> | undefined;
  second: AsyncIterable<Uint8Array>;
};

const mark = "carrel-snapshot-2\0";
const markOfOnePart = "carrel-snapshot\0";
const pieceBytes = 1 << 20;

export function headOf({ past, locks, signs }: Head): Buffer {
  const first = signs ? `=\0${signs.map((path) => `+${path}\0`).join("")}` : "";
  return Buffer.concat([bytesOf(`${mark}${past.map((path) => `-${path}\0`).join("")}${first}`), recordsOf(locks), Buffer.of(0)]);
}

/** A part, as an archive has it. */
export async function* framed(part: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of part) {
    waiting.push(piece);
    bytes += piece.length;
    if (bytes < pieceBytes) continue;
    yield lengthOf(bytes);
    yield* waiting;
    [waiting, bytes] = [[], 0];
  }
  if (bytes > 0) yield lengthOf(bytes);
  yield* waiting;
  yield lengthOf(0);
}

function lengthOf(bytes: number): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes);
  return length;
}

export async function openArchive(plain: AsyncIterable<Buffer>): Promise<OpenArchive> {
  const bytes = createReader(plain[Symbol.asyncIterator]());
  const start = (await bytes.peek(mark.length)).toString("latin1");
  if (start === mark) return { ...headFrom(await bytes.through("\0\0", mark.length)), first: partOf(bytes), second: lastOf(bytes) };
  const hasHead = start.startsWith(markOfOnePart);
  const head = hasHead ? headFrom(await bytes.through("\0\0", markOfOnePart.length)) : { past: [], locks: [] };
  return { ...head, signs: undefined, first: undefined, second: bytes.rest() };
}

function headFrom(records: string): Head {
  const all = records.split("\0").slice(0, -1);
  const of = (sign: string) => all.filter((one) => one.startsWith(sign)).map((one) => one.slice(1));
  const locks = all.filter((one) => /^\d/.test(one));
  return { past: of("-"), locks: locksOf(locks.map((one) => `${one}\0`).join("")), signs: all.includes("=") ? of("+") : undefined };
}

type Reader = ReturnType<typeof createReader>;

async function* partOf(bytes: Reader): AsyncGenerator<Uint8Array> {
  for (;;) {
    const length = (await bytes.exactly(4)).readUInt32BE();
    if (length === 0) return;
    yield* bytes.take(length);
  }
}

/** Ends where the archive does: only there is it known to be whole. */
async function* lastOf(bytes: Reader): AsyncGenerator<Uint8Array> {
  yield* partOf(bytes);
  for await (const { length } of bytes.rest()) if (length > 0) throw new Error("something follows the archive");
}

function createReader(pieces: AsyncIterator<Buffer>) {
  let held: Buffer = Buffer.alloc(0);
  const more = async (): Promise<boolean> => {
    const { value, done } = await pieces.next();
    if (!done) held = held.length > 0 ? Buffer.concat([held, value]) : value;
    return !done;
  };
  const cut = (): Error => new Error("the archive was cut");
  const drop = (length: number): Buffer => {
    const dropped = held.subarray(0, length);
    held = held.subarray(length);
    return dropped;
  };
  return {
    /** The first bytes, which stay; fewer where there are no more, but never none. */
    async peek(length: number): Promise<Buffer> {
      while (held.length < length && (await more()));
      if (held.length === 0) throw cut();
      return held.subarray(0, length);
    },
    /** Everything up to an end, without its last character, but for so many bytes. */
    async through(end: string, without: number): Promise<string> {
      const parts: Buffer[] = [];
      for (let at = held.indexOf(end, 0, "latin1"); ; at = held.indexOf(end, 0, "latin1")) {
        if (at >= 0)
          return Buffer.concat([...parts, drop(at + end.length)])
            .toString("latin1", without)
            .slice(0, -1);
        // The end may have begun.
        parts.push(drop(Math.max(0, held.length - end.length + 1)));
        if (!(await more())) throw cut();
      }
    },
    async exactly(length: number): Promise<Buffer> {
      while (held.length < length) if (!(await more())) throw cut();
      return drop(length);
    },
    async *take(length: number): AsyncGenerator<Buffer> {
      for (let left = length; left > 0; ) {
        if (held.length === 0 && !(await more())) throw cut();
        const taken = drop(Math.min(left, held.length));
        left -= taken.length;
        yield taken;
      }
    },
    async *rest(): AsyncGenerator<Buffer> {
      do yield drop(held.length);
      while (await more());
    },
  };
}
