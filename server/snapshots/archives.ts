import { createHash } from "node:crypto";
import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { isNamed } from "./store.ts";

/** Where an archive belongs: it opens nowhere else. */
export type ArchivePlace = { ownerId: string; sessionId: string; generation: number; archive: string };

/** Sealed archives. */
export type Archives = {
  /** Seals and keeps a stream, and reads it back before it answers. Nothing is kept when it throws. */
  put(place: ArchivePlace, source: AsyncIterable<Uint8Array>): Promise<{ bytes: number; digest: Uint8Array }>;
  /** What was put, verified piece by piece. Throws for one that is gone or was altered. */
  get(place: ArchivePlace): AsyncIterable<Uint8Array>;
  /** Safe to repeat. */
  remove(archive: string): Promise<void>;
};

/** Removes an archive unless a row names it: whether a commit took place may be unknown, and then the row decides. */
export async function discardUnnamed({ db, archives }: { db: Kysely<Database>; archives: Archives }, archive: string): Promise<void> {
  if (!(await isNamed(db, archive))) await archives.remove(archive);
}

export function createArchives(directory: string, userVault: (id: string) => Promise<UserVault>): Archives {
  const ctx = (p: { sessionId: string; generation: number }, i: number) => ({
    resourceType: "snapshot",
    resourceId: p.sessionId,
    field: `chunk/${i}`,
    generation: p.generation,
  });
  return {
    async put(place, source) {
      const vault = await userVault(place.ownerId);
      const path = join(directory, place.archive);
      await mkdir(dirname(path), { recursive: true });
      const digest = createHash("sha256");
      let bytes = 0;
      let i = 0;
      await using file = await open(path, "w");
      for await (const piece of source) {
        digest.update(piece);
        bytes += piece.length;
        const sealed = vault.seal("archive", ctx(place, i++), piece);
        const n = Buffer.alloc(4);
        n.writeUInt32BE(sealed.length);
        await file.write(n);
        await file.write(sealed);
      }
      return { bytes, digest: digest.digest() };
    },
    async *get(place) {
      const vault = await userVault(place.ownerId);
      const all = await readFile(join(directory, place.archive));
      for (let at = 0, i = 0; at < all.length; i += 1) {
        const n = all.readUInt32BE(at);
        yield vault.open("archive", ctx(place, i), all.subarray(at + 4, at + 4 + n));
        at += 4 + n;
      }
    },
    remove: (archive) => rm(join(directory, archive), { force: true }),
  };
}
void writeFile;
