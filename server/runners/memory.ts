import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Transaction } from "kysely";
import { type MemoryChange, type MemoryFileSchema, MemoryObstacle } from "../../gen/carrel/runner/v1/memory_pb.ts";
import type { Database } from "../db/database.ts";
import type { Change } from "../journal/journal.ts";
import type { UserVault } from "../vault/user-vault.ts";

type Owner = { owner_id: string; profile_id: string };
type Reported = { path: string } & ({ content: Uint8Array } | { removed: true } | { refused: ObstacleWord });
type ObstacleWord = "not_a_file" | "too_large" | "invalid_path" | "too_many";
type Outcome = { created: string[]; changed: string[]; deleted: string[]; refused: { path: string; reason: string }[] };

/** The memory bank of a session's profile, which the session's own record names. */
export type SessionMemory = {
  read(tx: Transaction<Database>, vault: UserVault, owner: Owner): Promise<MessageInitShape<typeof MemoryFileSchema>[]>;
  apply(tx: Transaction<Database>, vault: UserVault, owner: Owner, changes: readonly Reported[]): Promise<Outcome>;
};

export type MemorySync = (change: Change, changes: readonly MemoryChange[]) => Promise<{ refused: { path: string; reason: string }[] }>;

/** How long the same refusal is not told again. */
const quietMs = 60_000;
/** Refusals of one session that are told within that time; it bounds what a runner gone wild writes into the log. */
const mostTold = 200;
const pathShown = 256;

/** Takes back what an agent changed in its bank, and says in the session's log what was taken and what was not. */
export function createMemorySync(memory: Pick<SessionMemory, "apply">): MemorySync {
  const told = new Map<string, Map<string, number>>();

  const isNew = (sessionId: string, key: string, now: number): boolean => {
    const ofSession = told.get(sessionId) ?? new Map<string, number>();
    for (const [known, at] of ofSession) if (now - at >= quietMs) ofSession.delete(known);
    if (ofSession.has(key) || ofSession.size >= mostTold) return false;
    told.set(sessionId, ofSession.set(key, now));
    return true;
  };
  const forgetOld = (now: number): void => {
    for (const [sessionId, ofSession] of told) if ([...ofSession.values()].every((at) => now - at >= quietMs)) told.delete(sessionId);
  };

  return async (change, changes) => {
    const { created, changed, deleted, refused } = await memory.apply(change.tx, change.vault, change.session, changes.map(reported));
    const now = change.now.getTime();
    if (refused.length > 0) forgetOld(now);
    for (const { path, reason } of refused) {
      if (isNew(change.session.id, `${reason} ${path}`, now))
        change.append({ case: "system", value: refusedNotice(path.slice(0, pathShown), reason) });
    }
    const all = created.length + changed.length + deleted.length;
    if (all > 0) {
      const message = `memory: ${created.length} created, ${changed.length} changed, ${deleted.length} deleted`;
      change.append({ case: "system", value: { subtype: "memory_synced", message, details: { created, changed, deleted } } });
    }
    return { refused };
  };
}

const obstacles: Record<MemoryObstacle, ObstacleWord> = {
  [MemoryObstacle.UNSPECIFIED]: "not_a_file",
  [MemoryObstacle.NOT_A_FILE]: "not_a_file",
  [MemoryObstacle.TOO_LARGE]: "too_large",
  [MemoryObstacle.BAD_NAME]: "invalid_path",
  [MemoryObstacle.TOO_MANY]: "too_many",
};

function reported({ path, kind }: MemoryChange): Reported {
  if (kind.case === "content") return { path, content: kind.value };
  if (kind.case === "removal") return { path, removed: true };
  return { path, refused: obstacles[kind.value ?? MemoryObstacle.UNSPECIFIED] ?? "not_a_file" };
}

const reasons: Readonly<Record<string, string>> = {
  invalid_path: "its path is not allowed: up to 5 segments of A-Z a-z 0-9 . _ -, none beginning with a dot",
  too_large: "it is larger than 65,536 bytes",
  not_text: "it is not UTF-8 text",
  not_a_file: "it is not a regular file that can be read",
  too_many: "the memory bank is full: 100 files",
  bank_full: "the memory bank is full: 5 MiB",
  path_conflict: "it stands where the memory bank has a directory, or the other way round",
  profile_gone: "the profile of this session is gone",
};

function refusedNotice(path: string, reason: string) {
  // Names come out of a sandbox and end in terminals.
  const shown = path.toWellFormed().replace(/\p{Cc}/gu, "\ufffd");
  return {
    subtype: "memory_refused",
    message: `not kept in memory: ${shown}: ${reasons[reason] ?? reason}`,
    details: { path: shown, reason },
  };
}
