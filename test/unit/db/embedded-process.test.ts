import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { clusterName, findPostmaster, findProcesses, removeStalePidFile, trimLog } from "../../../server/db/embedded-process.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../support/temporary.ts";

let directory: string;
beforeEach(() => {
  directory = makeTemporaryDirectory("process");
});
afterEach(() => removeDirectory(directory));

const pidFile = (): string => path.join(directory, "postmaster.pid");

describe("the processes of an embedded Postgres", () => {
  it("are not believed to exist because a stranger has the pid of a former one", () => {
    writeFileSync(pidFile(), `${process.pid}\n${directory}\n`);
    expect(findPostmaster(directory)).toBeUndefined();
    expect(findProcesses(directory)).toEqual([]);
  });

  it("leave a pid file that is removed once a stranger has the pid", () => {
    const socketFile = path.join(directory, ".s.PGSQL.5432");
    writeFileSync(pidFile(), `${process.pid}\n`);
    writeFileSync(`${socketFile}.lock`, `${process.pid}\n`);
    removeStalePidFile(directory, socketFile);
    expect(existsSync(pidFile())).toBe(false);
    expect(existsSync(`${socketFile}.lock`)).toBe(false);
  });

  it("keep the pid file as long as one of them lives", async () => {
    const orphan = spawn("sleep", ["60"], { argv0: `postgres: ${clusterName(directory)}: checkpointer ` });
    await once(orphan, "spawn");
    try {
      writeFileSync(pidFile(), "4194000\n");
      removeStalePidFile(directory, path.join(directory, ".s.PGSQL.5432"));
      expect(findProcesses(directory)).toEqual([orphan.pid]);
      expect(existsSync(pidFile())).toBe(true);
    } finally {
      orphan.kill("SIGKILL");
      await once(orphan, "exit");
    }
  });

  it("write a log that is cut at its limit with one older copy kept", () => {
    const log = path.join(directory, "postgres.log");
    writeFileSync(log, "first\n");
    trimLog(log, 10);
    expect(readFileSync(log, "utf8")).toBe("first\n");
    appendFileSync(log, "second\n");
    trimLog(log, 10);
    expect(statSync(log).size).toBe(0);
    expect(readFileSync(`${log}.1`, "utf8")).toBe("first\nsecond\n");
  });
});
