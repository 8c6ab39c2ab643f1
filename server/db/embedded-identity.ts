/**
 * Who the embedded Postgres runs as. The server refuses effective user 0 and initdb refuses a user without a name, so beside
 * "simply this user" there are, best first:
 *
 * 1. a user namespace in which our files belong to the machine's `nobody`: nothing changes hands, no parent directory has
 *    to be opened to anybody, and the process holds no capability outside;
 * 2. under root, the user who owns the data directory already;
 * 3. under root, `postgres` or `nobody`, to whom the directories are then given.
 *
 * Each candidate has to prove that it can run the program and write to the directory before it is taken.
 */
import { type SpawnOptions, spawnSync } from "node:child_process";
import { chownSync, lchownSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";

/** How to start a program so that it may be Postgres: prepend `prefix`, pass `options` to spawn, hand over `owner`'s directories first. */
export type Identity = {
  name: string;
  prefix: string[];
  options: Pick<SpawnOptions, "uid" | "gid">;
  owner?: { uid: number; gid: number };
};

/** Picks the identity for a data directory that exists; throws with what an operator can do when none works. */
export function chooseIdentity(postgres: string, dataDirectory: string): Identity {
  const refusals: string[] = [];
  const { uid, gid } = lstatSync(dataDirectory);
  for (const candidate of candidates(dataDirectory)) {
    if (candidate.owner !== undefined) giveTo(dataDirectory, candidate.owner);
    const refusal = probe(candidate, postgres, dataDirectory);
    if (refusal === undefined) return candidate;
    refusals.push(`as ${candidate.name}: ${refusal}`);
    if (candidate.owner !== undefined) giveTo(dataDirectory, { uid, gid });
  }
  throw new Error(
    `the embedded Postgres cannot run on ${dataDirectory} (${refusals.join("; ")}). ` +
      "Start Carrel as the ordinary user who owns that directory, or choose another CARREL_DATA_DIR, or set DATABASE_URL",
  );
}

/** Gives a directory and what is in it to the identity's user, where it has one. Links are changed, never followed. */
export function giveTo(directory: string, owner: { uid: number; gid: number }): void {
  const current = lstatSync(directory);
  if (current.uid === owner.uid && current.gid === owner.gid) return;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const file = path.join(directory, entry.name);
    if (entry.isDirectory()) giveTo(file, owner);
    else lchownSync(file, owner.uid, owner.gid);
  }
  // The directory itself last: if this is cut short, the next start sees the old owner here and does the rest.
  chownSync(directory, owner.uid, owner.gid);
}

function candidates(dataDirectory: string): Identity[] {
  const namespace = inNamespace();
  if (process.geteuid?.() !== 0) return [{ name: "this user", prefix: [], options: {} }, ...namespace];
  const { uid, gid } = lstatSync(dataDirectory);
  const list = uid === 0 ? namespace : [asUser(`the owner of the directory, user ${uid}`, uid, gid)];
  for (const name of ["postgres", "nobody"]) {
    const ids = findUser(name);
    if (ids !== undefined && ids.uid !== 0 && ids.uid !== uid) list.push(asUser(`user ${name}`, ids.uid, ids.gid));
  }
  return list;
}

function inNamespace(): Identity[] {
  const nobody = findUser("nobody");
  if (nobody === undefined) return [];
  const prefix = ["unshare", "--user", `--map-user=${nobody.uid}`, `--map-group=${nobody.gid}`, "--"];
  return [{ name: "nobody in a user namespace", prefix, options: {} }];
}

function asUser(name: string, uid: number, gid: number): Identity {
  return { name, prefix: [], options: { uid, gid }, owner: { uid, gid } };
}

function findUser(name: string): { uid: number; gid: number } | undefined {
  const line = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(":") ?? [];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

function probe(identity: Identity, postgres: string, dataDirectory: string): string | undefined {
  const script = 'id -un && cd "$1" && test -w . && exec "$2" --version';
  const [file = "/bin/sh", ...args] = [...identity.prefix, "/bin/sh", "-c", script, "sh", dataDirectory, postgres];
  const result = spawnSync(file, args, { ...identity.options, encoding: "utf8", timeout: 10_000 });
  if (result.status === 0) return undefined;
  return result.error?.message ?? (result.stderr.trim() || "the directory is not writable");
}
