// TEMPORARY
import { createHash } from "node:crypto";
import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { UserVault } from "../vault/user-vault.ts";
import type { Archives } from "./snapshots.ts";

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
