import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { SandboxDriver, SandboxSpec } from "../../server/sandbox/driver.ts";
import { selectDriver } from "../../server/sandbox/select.ts";
import { escapePrograms, isRunning } from "./sandbox-harness.ts";

const soon = () => AbortSignal.timeout(10_000);

describe("choosing a sandbox", { timeout: 60_000 }, () => {
  let directory: string;
  let messages: string[];
  const log = { info: () => {}, warn: (_fields: unknown, message: string) => void messages.push(message) };
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "carrel-select-"));
    messages = [];
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  test("auto takes bubblewrap after it has run a program, and leaves no trace of that", async () => {
    const driver = await selectDriver({ sandbox: "auto", stateDirectory: join(directory, "state"), log });
    expect(driver.name).toBe("bubblewrap");
    expect(await driver.list()).toEqual([]);
    expect(readdirSync(join(directory, "state")).filter((name) => name.startsWith("check"))).toEqual([]);
  });

  test.each(["auto", "bubblewrap"] as const)("%s without bubblewrap fails with the command that installs it", async (sandbox) => {
    const bwrapPath = join(directory, "bwrap");
    await expect(selectDriver({ sandbox, stateDirectory: join(directory, "state"), bwrapPath, log })).rejects.toThrow(
      /apt-get install -y bubblewrap.*CARREL_SANDBOX=none/s,
    );
    expect(readdirSync(join(directory, "state"))).toEqual([]);
  });

  test("bubblewrap that does not work fails with what it said", async () => {
    const bwrapPath = join(directory, "bwrap");
    writeFileSync(bwrapPath, "#!/bin/sh\necho namespaces are forbidden here >&2\nexit 1\n", { mode: 0o755 });
    const choice = selectDriver({ sandbox: "auto", stateDirectory: join(directory, "state"), bwrapPath, log });
    await expect(choice).rejects.toThrow(/does not work on this machine.*namespaces are forbidden here/s);
  });

  describe("none", () => {
    let driver: SandboxDriver;
    let spec: SandboxSpec;
    beforeEach(async () => {
      driver = await selectDriver({ sandbox: "none", stateDirectory: join(directory, "state"), log });
      spec = {
        id: "plain",
        labels: { session: "plain" },
        command: ["bash", "-c", "read -r word; echo $word $PLACE; pwd; ls /escape 2>&1; exit 3"],
        cwd: "/workspace",
        environment: { PATH: "/usr/bin:/bin", PLACE: "/workspace/inner:/escape" },
        readOnly: [{ source: escapePrograms, target: "/escape" }],
        writable: [{ source: directory, target: "/workspace" }],
        stdin: Buffer.from("token\n"),
        logPath: join(directory, "log"),
        limits: { memoryBytes: 2 ** 30, cpus: 1, processes: 100 },
      };
    });

    test("says loudly that nothing is enforced", () => {
      expect(driver.enforced).toMatchObject({ memory: false, cpus: false, processes: false, disk: false });
      expect(driver.enforced.reason).toMatch(/WITHOUT ANY SANDBOX/);
      expect(messages.join()).toMatch(/WITHOUT ANY SANDBOX/);
    });

    test("runs a command with the paths it was promised turned into those of the host", async () => {
      const handle = await driver.start(spec);
      expect(await driver.wait(handle, soon())).toEqual({ state: "exited", exitCode: 3 });
      expect(readFileSync(spec.logPath, "utf8")).toContain(`token ${directory}/inner:${escapePrograms}\n${directory}\n`);
      await driver.destroy(handle);
      expect(await driver.list()).toEqual([]);
    });

    test("kills what left its process group, found again by another driver", async () => {
      const command = ["bash", "-c", "setsid bash -c 'trap : TERM; echo $$ > pid; while :; do sleep 1; done' & sleep 60"];
      const handle = await driver.start({ ...spec, command });
      await expect.poll(() => existsSync(join(directory, "pid")) && readFileSync(join(directory, "pid"), "utf8").length > 1).toBe(true);
      const pid = Number(readFileSync(join(directory, "pid"), "utf8"));
      expect(isRunning(pid)).toBe(true);
      const restarted = await selectDriver({ sandbox: "none", stateDirectory: join(directory, "state"), log });
      expect(await restarted.list()).toEqual([handle]);
      await restarted.destroy(handle);
      expect(isRunning(pid)).toBe(false);
    });
  });
});
