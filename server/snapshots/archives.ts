import type { Kysely } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { sealed, unsealed } from "../blobs/sealed.ts";
import { BlobDamagedError, type BlobDigest, BlobMissingError, type BlobStore, BlobStoreFullError } from "../blobs/store.ts";
import type { Database } from "../db/database.ts";
import { refusal } from "../errors.ts";
import { VaultError } from "../vault/errors.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { isNamed } from "./store.ts";

/** Where an archive belongs: it opens nowhere else. */
export type ArchivePlace = { ownerId: string; sessionId: string; generation: number; archive: string };

/** What a session is put away with: one sealed stream each, among the blobs. */
export type Archives = {
  /**
   * Seals and keeps a content under a name that was never used, and reads it back before it answers with the length and
   * digest of what is kept. Nothing is kept when it throws; refused with STORE_FULL when there is no room.
   */
  put(place: ArchivePlace, content: AsyncIterable<Uint8Array>): Promise<BlobDigest>;
  /** The content, in pieces that count only once it has ended. Refused with SNAPSHOT_GONE when it is gone or was altered. */
  get(place: ArchivePlace, expected: BlobDigest): AsyncGenerator<Uint8Array>;
  /** Nothing happens when there is none. */
  remove(archive: string): Promise<void>;
  /** The names of all that are kept, or of those of one session. */
  list(sessionId?: string): AsyncGenerator<string>;
};

const folder = "snapshots/";

export function createArchives(blobs: BlobStore, userVault: (userId: string) => Promise<UserVault>): Archives {
  const archives: Archives = {
    async put(place, content) {
      const key = folder + place.archive;
      try {
        const digest = await blobs.put(
          key,
          sealed(() => userVault(place.ownerId), place, content),
        );
        for await (const _piece of archives.get(place, digest));
        return digest;
      } catch (error) {
        await blobs.delete(key);
        throw error instanceof BlobStoreFullError ? refusal(ErrorReason.STORE_FULL, "there is no room for another snapshot") : error;
      }
    },
    async *get(place, expected) {
      try {
        yield* unsealed(() => userVault(place.ownerId), place, blobs.get(folder + place.archive, expected));
      } catch (error) {
        const gone = error instanceof BlobMissingError || error instanceof BlobDamagedError || error instanceof VaultError;
        throw gone ? refusal(ErrorReason.SNAPSHOT_GONE, "what was put away of this session is gone or was altered") : error;
      }
    },
    remove: (archive) => blobs.delete(folder + archive),
    async *list(sessionId) {
      for await (const key of blobs.list(sessionId ? `${folder}${sessionId}/` : folder)) yield key.slice(folder.length);
    },
  };
  return archives;
}

/** Removes an archive unless a row names it: whether a commit took place may be unknown, and then the row decides. */
export async function discardUnnamed({ db, archives }: { db: Kysely<Database>; archives: Archives }, archive: string): Promise<void> {
  if (!(await isNamed(db, archive))) await archives.remove(archive);
}
