// File systems of a fixed size, each in a sparse file, for directories that a sandbox may not fill without bound. They are
// mounted in the mount namespace of their sandbox alone, so the kernel takes mount and loop device back when its last process
// is gone, however that came.
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { SandboxMount } from "./driver.ts";

export type Images = {
  /** Why this machine cannot limit directories; null where it can. */
  failure: string | null;
  /** The image to mount for a directory, made on first use; null when the directory itself is to be used. */
  imageFor(mount: SandboxMount): Promise<string | null>;
};

/** As a mount table writes them. What is deleted inside is given back to the disk; unused tables are never written. */
export const imageOptions = "loop,nosuid,nodev,discard,noinit_itable";

const run = promisify(execFile);
const probeBytes = 16 * 1024 * 1024;

/** Finds out by trying. Only root can mount an image. */
export async function createImages(stateDirectory: string, isRoot: boolean): Promise<Images> {
  const failure = isRoot ? await tryOut(join(stateDirectory, `probe-${randomUUID()}`)) : "only root can limit it";
  return {
    failure,
    async imageFor({ source, limitBytes }) {
      if (failure !== null || limitBytes === undefined) return null;
      // Beside the directory, where no sandbox ever reaches: the kernel reads it, so only the kernel may have written it.
      const image = `${source}.image`;
      if (await exists(image)) return image;
      // Of a time without limits: its files would be hidden.
      if ((await readdir(source)).length > 0) return null;
      await make(`${image}.new`, limitBytes);
      await rename(`${image}.new`, image);
      return image;
    },
  };
}

async function make(path: string, bytes: number): Promise<void> {
  const file = await open(path, "w", 0o600);
  try {
    await file.truncate(Math.floor(bytes));
  } finally {
    await file.close();
  }
  const lazily = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
  await run("mkfs.ext4", ["-q", "-F", "-m", "0", "-O", "^resize_inode", "-J", "size=4", "-E", lazily, path], { env: { PATH: systemPath } });
}

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

async function tryOut(path: string): Promise<string | null> {
  try {
    await make(path, probeBytes);
    const mount = ["mount", "-t", "ext4", "-o", imageOptions, path, "/tmp"];
    await run("unshare", ["--mount", "--propagation", "private", "--", ...mount], { env: { PATH: systemPath } });
    return null;
  } catch (error) {
    return (error as Error).message.trim().split("\n").at(-1) ?? "";
  } finally {
    await rm(path, { force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}
