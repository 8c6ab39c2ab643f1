// Looks at the memory bank's directory the way one looks at somebody else's: bounded, without following a link, and never
// trusting that what was there a moment ago still is. The agent may be changing it meanwhile, on purpose.
import { constants } from "node:fs";
import { chmod, type FileHandle, lstat, mkdir, open, opendir, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { MemoryObstacle } from "../gen/carrel/runner/v1/memory_pb.ts";

/** Names what a file was when it was looked at; another content has another signature. */
export type Signature = string;

export type Look = {
  /** Files that may be read, by path. */
  files: Map<string, Signature>;
  /** What stands there instead of a file. `.` is the directory itself. */
  obstacles: Map<string, MemoryObstacle>;
  /** False when something was not looked at: then what is not in `files` may be there all the same. */
  whole: boolean;
};

const mostLooked = 1_000;
const entryBytes = 64 * 1024;
const ownerReads = 0o400n;
const goodPath = /^(?=.{1,256}$)[A-Za-z0-9_-][A-Za-z0-9._-]*(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,4}$/;

const asDirectory = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
// Without O_NONBLOCK a FIFO would hold the runner until somebody writes to it.
const asFile = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Makes the directory hold exactly these files. */
export async function writeFiles(directory: string, files: readonly { path: string; content: Uint8Array }[]): Promise<void> {
  await removeAll(directory);
  await mkdir(directory);
  for (const { path, content } of files) {
    if (!goodPath.test(path)) throw new Error(`the memory bank has a bad path: ${path}`);
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), content, { flag: "wx" });
  }
}

async function removeAll(directory: string): Promise<void> {
  try {
    await rm(directory, { recursive: true, force: true });
  } catch {
    // Directories of an earlier agent that do not let their files go.
    await makeWritable(directory);
    await rm(directory, { recursive: true, force: true });
  }
}

async function makeWritable(directory: string): Promise<void> {
  if (!(await lstat(directory)).isDirectory()) return;
  await chmod(directory, 0o700);
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (entry.isDirectory()) await makeWritable(join(directory, entry.name));
  }
}

export async function lookAt(directory: string): Promise<Look> {
  const look: Look = { files: new Map(), obstacles: new Map(), whole: true };
  let looked = 0;

  const visit = async (handle: FileHandle, prefix: string): Promise<void> => {
    for await (const entry of await opendir(within(handle))) {
      if ((looked += 1) > mostLooked) return tooMany(look, prefix + entry.name);
      const path = prefix + entry.name;
      if (!goodPath.test(path)) look.obstacles.set(path, MemoryObstacle.BAD_NAME);
      else if (entry.isDirectory()) await descend(join(within(handle), entry.name), path);
      else if (!entry.isFile()) look.obstacles.set(path, MemoryObstacle.NOT_A_FILE);
      else await addFile(look, join(within(handle), entry.name), path);
    }
  };
  const descend = async (name: string, path: string): Promise<void> => {
    const handle = await tolerant(open(name, asDirectory));
    if (handle === "gone" && path !== "") return;
    if (typeof handle === "string") return void look.obstacles.set(path || ".", MemoryObstacle.NOT_A_FILE);
    try {
      await visit(handle, path && `${path}/`);
    } finally {
      await handle.close();
    }
  };
  await descend(directory, "");
  return look;
}

function tooMany(look: Look, path: string): void {
  if (look.whole) look.obstacles.set(path, MemoryObstacle.TOO_MANY);
  look.whole = false;
}

async function addFile(look: Look, name: string, path: string): Promise<void> {
  const found = await tolerant(lstat(name, { bigint: true }));
  if (found === "gone") return;
  if (found === "closed" || (found.mode & ownerReads) === 0n) look.obstacles.set(path, MemoryObstacle.NOT_A_FILE);
  else if (found.size > entryBytes) look.obstacles.set(path, MemoryObstacle.TOO_LARGE);
  else look.files.set(path, signatureOf(found));
}

/** A file's content and what it was then; undefined when it is gone or no longer a file that may be read. */
export async function readMemory(directory: string, path: string): Promise<{ content: Buffer; signature: Signature } | undefined> {
  const segments = path.split("/");
  const name = segments.pop()!;
  let at = await tolerant(open(directory, asDirectory));
  try {
    for (const segment of segments) {
      if (typeof at === "string") return undefined;
      const next: FileHandle | Shut = await tolerant(open(join(within(at), segment), asDirectory));
      await at.close();
      at = next;
    }
    return typeof at === "string" ? undefined : await readRegular(join(within(at), name));
  } finally {
    if (typeof at !== "string") await at.close();
  }
}

async function readRegular(name: string): Promise<{ content: Buffer; signature: Signature } | undefined> {
  const handle = await tolerant(open(name, asFile));
  if (typeof handle === "string") return undefined;
  try {
    const found = await handle.stat({ bigint: true });
    if (!found.isFile() || found.size > entryBytes) return undefined;
    const buffer = Buffer.alloc(entryBytes + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    if (length > entryBytes) return undefined;
    return { content: buffer.subarray(0, length), signature: signatureOf(found) };
  } finally {
    await handle.close();
  }
}

/** What is opened below it stays below it, whatever becomes of the names on the way. */
function within(handle: FileHandle): string {
  return `/proc/self/fd/${handle.fd}`;
}

function signatureOf({ ino, size, mtimeNs, ctimeNs }: { ino: bigint; size: bigint; mtimeNs: bigint; ctimeNs: bigint }): Signature {
  return [ino, size, mtimeNs, ctimeNs].join(":");
}

/** What was not found, or is no door for this runner. */
type Shut = "gone" | "closed";

/** The agent may have been faster, or keep the door shut; neither is an error. */
async function tolerant<T>(work: Promise<T>): Promise<T | Shut> {
  try {
    return await work;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (code === "ENOENT") return "gone";
    if (expected.has(code)) return "closed";
    throw error;
  }
}

const expected: ReadonlySet<string> = new Set(["ENOTDIR", "ELOOP", "EACCES", "EPERM", "ENXIO", "EISDIR", "ENODEV", "ESTALE"]);
