// The bank as sessions have it: given whole at the start of an agent, changed by what its runner brings back.
import type { Transaction } from "kysely";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type Bank, openBank } from "./bank.ts";
import { problemOfPath, type Refused, textOf } from "./rules.ts";
import { openContent } from "./seal.ts";
import { listContents, lockBank } from "./store.ts";

/** Whose bank, from the session's own record. */
export type BankOwner = { owner_id: string; profile_id: string };

export type MemoryFile = { path: string; content: Uint8Array };

/** What became of one path. Not trusted. `refused` is what the runner itself did not read. */
export type MemoryChange = { path: string } & ({ content: Uint8Array } | { removed: true } | { refused: Refused });

export type MemoryOutcome = {
  created: string[];
  changed: string[];
  deleted: string[];
  refused: { path: string; reason: Refused }[];
};

export async function readBank(tx: Transaction<Database>, vault: UserVault, owner: BankOwner): Promise<MemoryFile[]> {
  const rows = await listContents(tx, owner.owner_id, owner.profile_id);
  return rows.map((row) => ({ path: row.path, content: openContent(vault, row) }));
}

/** Applies changes in order, each by itself; the last one to write a path wins. */
export async function applyToBank(
  tx: Transaction<Database>,
  vault: UserVault,
  owner: BankOwner,
  changes: readonly MemoryChange[],
): Promise<MemoryOutcome> {
  const outcome: MemoryOutcome = { created: [], changed: [], deleted: [], refused: [] };
  const bank = (await lockBank(tx, owner.owner_id, owner.profile_id)) ? await openBank(tx, vault, owner.profile_id) : undefined;
  for (const change of changes) {
    const result = bank ? await apply(bank, change) : "profile_gone";
    if (result === "created" || result === "changed" || result === "deleted") outcome[result].push(change.path);
    else if (result !== undefined) outcome.refused.push({ path: change.path, reason: result });
  }
  return outcome;
}

async function apply(bank: Bank, change: MemoryChange): Promise<"created" | "changed" | "deleted" | Refused | undefined> {
  if ("refused" in change) return change.refused;
  if (problemOfPath(change.path)) return "invalid_path";
  if ("removed" in change) return (await bank.remove(change.path)) ? "deleted" : undefined;
  if (textOf(change.content) === undefined) return "not_text";
  const put = await bank.put(change.path, change.content);
  if ("refused" in put) return put.refused;
  if (!put.changed) return undefined;
  return put.created ? "created" : "changed";
}
