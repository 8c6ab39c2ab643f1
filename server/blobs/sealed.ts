// A sealed stream: a content of any length, sealed piece by piece for its owner, so that it can lie in a place nobody trusts.
//
//   "CSS1" | stream id 16 | envelopes of 262,144 bytes of content each, but for the last, which has 0 to 262,144
//
// Each piece is an envelope of the vault (purpose `archive`) in the context: type "archive", id = the session, generation =
// the snapshot's, field = `<stream id in hex>/<index from 0>`, with `/last` after the last. So no piece opens in another
// place, another stream, another snapshot, session or person, and a stream that ends early has no last piece. What this
// cannot see is an older stream of the same snapshot in place of the whole; the digest that is kept elsewhere can.
import { randomBytes } from "node:crypto";
import { ENVELOPE_OVERHEAD } from "../vault/envelope.ts";
import { VaultError } from "../vault/errors.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { inChunks } from "./chunks.ts";

/** What a stream belongs to. Both are known to whoever opens it; neither is in the stream. */
export type StreamPlace = { sessionId: string; generation: number };

/** Asked anew for every piece: a stream may take longer than a vault keeps its keys. */
export type VaultSource = () => Promise<UserVault>;

const mark = Buffer.from("CSS1", "ascii");
const idBytes = 16;
const headBytes = mark.length + idBytes;
export const sealedChunkBytes = 256 * 1024;

/** Bytes of the sealed form of a content. */
export function sealedLength(bytes: number): number {
  const pieces = Math.max(1, Math.ceil(bytes / sealedChunkBytes));
  return headBytes + bytes + pieces * ENVELOPE_OVERHEAD;
}

export async function* sealed(vault: VaultSource, place: StreamPlace, content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const id = randomBytes(idBytes);
  yield Buffer.concat([mark, id]);
  let index = 0;
  for await (const { bytes, isLast } of inChunks(content, sealedChunkBytes)) {
    yield (await vault()).seal("archive", contextOf(place, id, index++, isLast), bytes);
  }
}

/**
 * The content, each piece only when it has opened. Throws `VaultError` at the first that does not, and at a stream that is cut
 * or goes on: whoever uses pieces before the end must be able to take them back.
 */
export async function* unsealed(vault: VaultSource, place: StreamPlace, stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let id: Buffer | undefined;
  let index = 0;
  for await (const { bytes, isLast } of inChunks(stream, sealedChunkBytes + ENVELOPE_OVERHEAD, headBytes)) {
    if (id) yield (await vault()).open("archive", contextOf(place, id, index++, isLast), bytes);
    else if (isLast || !bytes.subarray(0, mark.length).equals(mark)) throw new VaultError();
    else id = bytes.subarray(mark.length);
  }
}

function contextOf({ sessionId, generation }: StreamPlace, id: Buffer, index: number, isLast: boolean) {
  const field = `${id.toString("hex")}/${index}${isLast ? "/last" : ""}`;
  return { resourceType: "archive", resourceId: sessionId, field, generation };
}
