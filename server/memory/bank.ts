// What both doors of a bank do with it: the API of its owner, and the runner of a session.
import type { Transaction } from "kysely";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type Entry, problemOfEntry, type Refused } from "./rules.ts";
import { digestOf, openDigest, sealMemory } from "./seal.ts";
import { deleteMemory, listMemories, type MemoryRow, writeMemory } from "./store.ts";

/** A bank under its lock, as the transaction has made it so far. */
export type Bank = {
  readonly entries: readonly Entry[];
  put(path: string, content: Uint8Array): Promise<PutOutcome>;
  /** False when there was none. */
  remove(path: string): Promise<boolean>;
};

export type PutOutcome = { row: MemoryRow; created: boolean; changed: boolean } | { refused: Refused };

/** Reads the bank; the caller holds its lock. Paths are taken as checked. */
export async function openBank(tx: Transaction<Database>, vault: UserVault, profileId: string): Promise<Bank> {
  const rows = new Map((await listMemories(tx, profileId)).map((row) => [row.path, row]));
  return {
    get entries() {
      return [...rows.values()];
    },
    async put(path, content) {
      const before = rows.get(path);
      if (before && before.size === content.length && openDigest(vault, before) === digestOf(content)) {
        return { row: before, created: false, changed: false };
      }
      const refused = problemOfEntry([...rows.values()], { path, size: content.length });
      if (refused) return { refused };
      const place = { profile_id: profileId, path, generation: (before?.generation ?? 0) + 1 };
      const row = await writeMemory(tx, { ...place, size: content.length, ...sealMemory(vault, place, content) });
      rows.set(path, row);
      return { row, created: before === undefined, changed: true };
    },
    async remove(path) {
      return rows.delete(path) && (await deleteMemory(tx, profileId, path));
    },
  };
}
