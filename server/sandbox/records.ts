import { mkdir, readdir, readFile, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ProcessIdentity, SandboxHandle } from "./driver.ts";
import { parseStat, readBootId } from "./processes.ts";

/**
 * What a driver knows of its sandboxes, on disk: one directory each, made before the first process and removed after the
 * last. Files in it: `record.json`; `supervisor` and `status`, written by the processes themselves, so that a control
 * plane that dies at any moment loses none; `init.json`, when `start` has completed; `fstab` and `stage`, see staging.ts.
 */
export type Records = {
  /** Claims the id. Throws when a sandbox of that id has not been destroyed yet. */
  claim(id: string): Promise<string>;
  /** Completes a claim; `supervisor` and `init` of the handle are found by `read`, they are not stored here. */
  write(handle: SandboxHandle): Promise<void>;
  writeInit(directory: string, init: ProcessIdentity): Promise<void>;
  /** Null when there is no such sandbox. */
  read(id: string): Promise<SandboxHandle | null>;
  ids(): Promise<string[]>;
  exists(id: string): Promise<boolean>;
  remove(directory: string): Promise<void>;
};

/** A claim or a removal that died in the middle of it left a directory that is nobody's: no process, group or mount belongs to it. */
async function removeUnwritten(root: string): Promise<void> {
  for (const id of await readdir(root)) {
    const directory = join(root, id);
    if (parseJson(await readIfThere(join(directory, "record.json"))) === null) await removeDirectory(directory);
  }
}

/** The programs of a sandbox as its status file tells: bubblewrap appends one JSON object per fact. */
type StatusFile = { init: number | null; exitCode: number | null };

export async function createRecords(driver: string, stateDirectory: string): Promise<Records> {
  const root = join(stateDirectory, "sandboxes");
  await mkdir(root, { recursive: true, mode: 0o700 });
  await removeUnwritten(root);
  return {
    claim: async (id) => {
      const directory = join(root, id);
      await mkdir(directory, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
        throw new Error(`a sandbox named ${id} exists already`, { cause: error });
      });
      return directory;
    },
    write: async (handle) => {
      await writeFile(join(handle.directory, "record.json"), JSON.stringify(handle), { mode: 0o600 });
    },
    writeInit: (directory, init) => writeFile(join(directory, "init.json"), JSON.stringify(init), { mode: 0o600 }),
    read: (id) => readHandle(driver, id, join(root, id)),
    ids: () => readdir(root),
    exists: (id) => directoryExists(join(root, id)),
    remove: removeDirectory,
  };
}

/** Numbers are taken only when something follows them: a half-written line must not yield half a number. */
function parseStatus(text: string): StatusFile {
  const number = (name: string) => {
    const match = new RegExp(`"${name}": (\\d+)\\s*[,}]`).exec(text);
    return match ? Number(match[1]) : null;
  };
  return { init: number("child-pid"), exitCode: number("exit-code") };
}

export async function readStatus(directory: string): Promise<StatusFile> {
  return parseStatus((await readIfThere(join(directory, "status"))) ?? "");
}

async function readHandle(driver: string, id: string, directory: string): Promise<SandboxHandle | null> {
  if (!(await directoryExists(directory))) return null;
  const record = parseJson<SandboxHandle>(await readIfThere(join(directory, "record.json")));
  const supervisor = await readIfThere(join(directory, "supervisor"));
  return {
    // A directory without a record is a claim that died young: no process, group or mount followed it.
    ...(record ?? { driver, id, labels: {}, bootId: await readBootId(), directory, cgroups: [], uid: null }),
    supervisor: supervisor ? parseStat(supervisor).identity : null,
    init: parseJson<ProcessIdentity>(await readIfThere(join(directory, "init.json"))),
  };
}

// What a write that was cut short left behind counts as not written.
function parseJson<T>(text: string | null): T | null {
  if (!text) return null;
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

export async function readIfThere(path: string): Promise<string | null> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
}

async function directoryExists(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw error;
    },
  );
}

// Never recursive: were a mount left in the stage, recursion would empty somebody's workspace. Then rmdir fails instead.
async function removeDirectory(directory: string): Promise<void> {
  const stage = join(directory, "stage");
  for (const entry of await listIfThere(stage)) {
    const path = join(stage, entry.name);
    await (entry.isDirectory() ? rmdir(path) : rm(path)).catch(ignoreMissing);
  }
  await rmdir(stage).catch(ignoreMissing);
  // The record goes last: until then an interrupted removal can be repeated from it.
  const names = (await listIfThere(directory)).map((entry) => entry.name).filter((name) => name !== "record.json");
  for (const name of [...names, "record.json"]) await rm(join(directory, name), { force: true });
  await rmdir(directory).catch(ignoreMissing);
}

async function listIfThere(directory: string) {
  return readdir(directory, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}
