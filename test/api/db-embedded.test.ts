import { execFile } from "node:child_process";
import { accessSync, chownSync, constants, cpSync, existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../../server/db/embedded.ts";
import { findPostmaster, findProcesses } from "../../server/db/embedded-process.ts";
import { silentLog } from "../support/postgres-server.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

const NOBODY_IN_PARTICULAR = 54_321;
const drill = path.resolve("test/support/postgres-drill.ts");

let initialised: string;
let directory: string;
let running: EmbeddedPostgres | undefined;

// Setting up takes longer than all else here, so most tests start from a copy of one that was set up.
beforeAll(async () => {
  initialised = directory = makeTemporaryDirectory("embedded");
  await (await start()).stop();
});
afterAll(() => removeDirectory(initialised));

beforeEach(() => {
  directory = makeTemporaryDirectory("embedded");
  cpSync(path.join(initialised, "data"), dataDirectory(), { recursive: true });
});

afterEach(async () => {
  await running?.stop();
  running = undefined;
  removeDirectory(directory);
});

const dataDirectory = (): string => path.join(directory, "data");
const postmaster = (): number | undefined => findPostmaster(dataDirectory())?.pid;

async function start(socketDirectory = "socket"): Promise<EmbeddedPostgres> {
  running = await startEmbeddedPostgres({
    dataDirectory: dataDirectory(),
    socketDirectory: path.join(directory, socketDirectory),
    log: silentLog(),
  });
  return running;
}

async function query(text: string): Promise<unknown[][]> {
  const client = new pg.Client(running?.connectionConfig as pg.ClientConfig);
  client.on("error", () => undefined);
  await client.connect();
  try {
    return (await client.query<unknown[]>({ text, rowMode: "array" })).rows;
  } finally {
    await client.end();
  }
}

describe("the embedded Postgres", () => {
  it("listens on its socket only, closed to other users, and keeps what it acknowledges", async () => {
    await start();
    const names = ["listen_addresses", "fsync", "full_page_writes", "synchronous_commit", "server_encoding"];
    const settings = names.map((name) => `current_setting('${name}')`).join(", ");
    expect(await query(`select ${settings}`)).toEqual([["", "on", "on", "on", "UTF8"]]);
    for (const name of ["data", "socket"]) expect(statSync(path.join(directory, name)).mode & 0o077).toBe(0);
  });

  it("stops in order and leaves no process", async () => {
    const postgres = await start();
    await postgres.stop();
    expect(findProcesses(dataDirectory())).toEqual([]);
    expect(existsSync(path.join(dataDirectory(), "postmaster.pid"))).toBe(false);
    await expect(postgres.ensureRunning()).rejects.toThrow("has been stopped");
  });

  it("is adopted by the next control plane when the last one is gone", async () => {
    await promisify(execFile)(process.execPath, [drill, directory, "leave"]);
    const left = postmaster();
    expect(left).toBeDefined();
    await start();
    expect(postmaster()).toBe(left);
    expect(await query("select n from kept")).toEqual([[1]]);
  });

  it("is restarted in order when it was left with another socket directory", async () => {
    await promisify(execFile)(process.execPath, [drill, directory, "leave"]);
    const left = postmaster();
    await start("elsewhere");
    expect(postmaster()).not.toBe(left);
    expect(await query("select n from kept")).toEqual([[1]]);
  });

  it("comes back after a kill -9, with one start for many who ask", async () => {
    const postgres = await start();
    await query("create table kept as select 1 as n");
    const killed = postmaster();
    process.kill(killed ?? 0, "SIGKILL");
    await Promise.all(Array.from({ length: 10 }, () => postgres.ensureRunning()));
    expect(postmaster()).not.toBe(killed);
    expect(await query("select n from kept")).toEqual([[1]]);
  });

  it("comes back although orphans of the killed one are busy", async () => {
    const postgres = await start();
    const busy = query("select count(*) from generate_series(1, 500000000)").catch((error: Error) => error);
    await expect.poll(() => query("select count(*) from pg_stat_activity where query like '%generate_series(1, 5%'")).not.toEqual([["1"]]);
    process.kill(postmaster() ?? 0, "SIGKILL");
    const begun = Date.now();
    await postgres.ensureRunning();
    expect(Date.now() - begun).toBeLessThan(10_000);
    expect(await busy).toBeInstanceOf(Error);
  });

  it("begins anew after a set-up that was cut short", async () => {
    removeDirectory(dataDirectory());
    mkdirSync(path.join(dataDirectory(), "new"), { recursive: true });
    mkdirSync(path.join(dataDirectory(), "base"));
    await start();
    expect(await query("select 1")).toEqual([[1]]);
    expect(existsSync(path.join(dataDirectory(), "new"))).toBe(false);
  });

  it("writes no statement and no value into its log", async () => {
    await start();
    await query("create table single (word text primary key)");
    await query("insert into single values ('a-planted-word')");
    await expect(query("insert into single values ('a-planted-word')")).rejects.toThrow("duplicate key");
    const log = readFileSync(path.join(dataDirectory(), "postgres.log"), "utf8");
    expect(log).toContain("duplicate key");
    expect(log).not.toContain("a-planted-word");
  });

  it("refuses a socket directory whose path is too long for a socket", async () => {
    await expect(start("x".repeat(100))).rejects.toThrow("too long a path");
  });

  const cannotChangeUser = process.geteuid?.() !== 0 || !othersMayRead(drill) || !othersMayRead(process.execPath);
  it.skipIf(cannotChangeUser)("starts, recovers and stops for an ordinary user, even one without a name", async () => {
    removeDirectory(dataDirectory());
    chownSync(directory, NOBODY_IN_PARTICULAR, NOBODY_IN_PARTICULAR);
    const user = { uid: NOBODY_IN_PARTICULAR, gid: NOBODY_IN_PARTICULAR };
    const { stdout } = await promisify(execFile)(process.execPath, [drill, directory], user);
    expect(JSON.parse(stdout)).toEqual({ rows: [[1]], recovered: true });
    expect(statSync(path.join(dataDirectory(), "PG_VERSION")).uid).toBe(NOBODY_IN_PARTICULAR);
    expect(findProcesses(dataDirectory())).toEqual([]);
  });
});

/** Whether a file and the way to it are open to everybody. */
function othersMayRead(file: string): boolean {
  accessSync(file, constants.R_OK);
  if ((statSync(file).mode & 0o005) === 0) return false;
  return file === path.dirname(file) || othersMayRead(path.dirname(file));
}
