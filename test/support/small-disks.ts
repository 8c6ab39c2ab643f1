/** Disks of a few megabytes that a test can fill. Only root can mount them. */
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";

export type SmallDisk = {
  /** Takes all of it but so many bytes. */
  fill(leaving?: number): void;
  /** Gives back what was taken. */
  clear(): void;
  unmount(): void;
};

/** Why there are none here; undefined where there are. */
export const noSmallDisks = process.getuid?.() === 0 ? undefined : "only root can mount a disk that is small enough to fill";

export function mountSmallDisk(directory: string, mebibytes: number): SmallDisk {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${mebibytes}m,mode=0700`, "tmpfs", directory]);
  const filler = join(directory, "@filler");
  return {
    fill(leaving = 0) {
      const piece = Buffer.alloc(64 * 1024);
      const file = openSync(filler, "a");
      try {
        while (room(directory) > leaving) writeSync(file, piece, 0, Math.min(piece.length, Math.max(4096, room(directory) - leaving)));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
      } finally {
        closeSync(file);
      }
    },
    clear: () => rmSync(filler, { force: true }),
    // Lazily: a process that is just leaving may still have a file of it open.
    unmount: () => void execFileSync("umount", ["-l", directory]),
  };
}

function room(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}
