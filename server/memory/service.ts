import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Kysely } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { MemoryService } from "../../gen/carrel/v1/memory_service_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound, refusal } from "../errors.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type Bank, openBank, type PutOutcome } from "./bank.ts";
import { limits, problemOfPath, type Refused, textOf } from "./rules.ts";
import { openContent, openDigest } from "./seal.ts";
import { findContent, listMemories, lockBank, type MemoryRow, ownsProfile } from "./store.ts";

export type MemoryServiceDeps = {
  db: Kysely<Database>;
  userVault(userId: string): Promise<UserVault>;
  userIdOf(context: HandlerContext): string;
};

export function createMemoryService({ db, userVault, userIdOf }: MemoryServiceDeps): ServiceImpl<typeof MemoryService> {
  const reading = async (context: HandlerContext, profileId: string): Promise<UserVault> => {
    const ownerId = userIdOf(context);
    if (!(await ownsProfile(db, ownerId, profileId))) throw notFound("profile");
    return userVault(ownerId);
  };
  const writing = async <T>(context: HandlerContext, profileId: string, work: (bank: Bank, vault: UserVault) => Promise<T>): Promise<T> => {
    const ownerId = userIdOf(context);
    const vault = await userVault(ownerId);
    return db.transaction().execute(async (tx) => {
      if (!(await lockBank(tx, ownerId, profileId))) throw notFound("profile");
      return work(await openBank(tx, vault, profileId), vault);
    });
  };

  return {
    async listMemories({ profileId }, context) {
      const vault = await reading(context, profileId);
      return { memories: (await listMemories(db, profileId)).map((row) => memoryFields(row, vault)) };
    },
    async getMemory({ profileId, path }, context) {
      requirePath(path);
      const vault = await reading(context, profileId);
      const row = await findContent(db, profileId, path);
      const content = row && textOf(openContent(vault, row));
      if (content === undefined) throw notFound("memory");
      return { ...memoryFields(row!, vault), content };
    },
    async putMemory({ profileId, path, entry }, context) {
      requirePath(path);
      const content = Buffer.from(entry!.content);
      return writing(context, profileId, async (bank, vault) => {
        const outcome: PutOutcome = await bank.put(path, content);
        if ("refused" in outcome) throw refusalOf(outcome.refused, bank, content.length);
        const { row, created, changed } = outcome;
        return { ...memoryFields(row, vault), created, changed };
      });
    },
    async deleteMemory({ profileId, path }, context) {
      requirePath(path);
      return writing(context, profileId, async (bank) => ({ deleted: await bank.remove(path) }));
    },
  };
}

function memoryFields(row: MemoryRow, vault: UserVault) {
  return {
    path: row.path,
    size: row.size,
    contentHash: openDigest(vault, row),
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
  };
}

function requirePath(path: string): void {
  const problem = problemOfPath(path);
  if (problem) throw refusal(ErrorReason.INVALID_ARGUMENT, `path: ${problem}`, { fields: "path" });
}

function refusalOf(reason: Refused, { entries }: Bank, size: number): Error {
  switch (reason) {
    case "too_large":
      return refusal(ErrorReason.TOO_LARGE, `${size} bytes, at most ${limits.entryBytes} are allowed`, {
        limit: String(limits.entryBytes),
      });
    case "too_many":
      return limitRefusal("files", limits.entries, entries.length);
    case "bank_full":
      return limitRefusal(
        "bytes",
        limits.totalBytes,
        entries.reduce((sum, entry) => sum + entry.size, 0),
      );
    default:
      return refusal(ErrorReason.INVALID_ARGUMENT, "path: a file of the bank is in the way: one of the two would have to be a directory", {
        fields: "path",
      });
  }
}

function limitRefusal(what: string, limit: number, count: number): Error {
  const text = `the memory bank holds ${count} ${what} and ${limit} are allowed: delete something first`;
  return refusal(ErrorReason.MEMORY_LIMIT, text, { limit: String(limit), count: String(count) });
}
