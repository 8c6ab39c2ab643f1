// How a repeated answer is known: the same person with the same content is answered as the first time.
import { hash } from "node:crypto";
import type { JsonValue } from "@bufbuild/protobuf";
import { answerRecord, type PersonsAnswer } from "../journal/pauses.ts";
import type { PauseRow } from "../journal/store.ts";
import type { UserVault } from "../vault/user-vault.ts";

/** Who answers. */
export type Answerer = { userId: string; name: string };

const digestBytes = 32;

/** What is kept of an answer: a digest of who and what, and the answer they got. */
export function personsAnswer(who: Answerer, content: JsonValue, response: Uint8Array): PersonsAnswer {
  return { by: who.name, record: Buffer.concat([digestOf(who, content), response]) };
}

/** What the first answer got, where this is the same one again; undefined where it is another. */
export function firstResponse(vault: UserVault, pause: PauseRow, who: Answerer, content: JsonValue): Uint8Array | undefined {
  const record = answerRecord(vault, pause);
  if (!record || !digestOf(who, content).equals(record.subarray(0, digestBytes))) return undefined;
  return record.subarray(digestBytes);
}

function digestOf({ userId }: Answerer, content: JsonValue): Buffer {
  return hash("sha256", JSON.stringify([userId, sorted(content)]), "buffer");
}

/** The order of keys is no content. */
function sorted(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const keys = Object.keys(value).sort();
  // Pairs, because keys that look like numbers would put themselves in order.
  return keys.map((key) => [key, sorted(value[key] ?? null)]);
}
