import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { SandboxHandle } from "../../server/sandbox/driver.ts";
import { createHarness, type Harness, isRunning, type MakeDriver, startFromDyingOwner } from "./sandbox-harness.ts";

const soon = () => AbortSignal.timeout(10_000);

/** What every driver owes, whatever it is made of. */
export function sandboxSuite(name: string, makeDriver: MakeDriver): void {
  describe(`the life of a sandbox (${name})`, { timeout: 60_000 }, () => {
    let harness: Harness;
    beforeAll(async () => {
      harness = await createHarness(makeDriver);
    });
    afterAll(() => harness.close());

    test("a command runs to its end and its exit code is told", async () => {
      expect((await harness.run(["true"])).exitCode).toBe(0);
      expect((await harness.run(["bash", "-c", "exit 7"])).exitCode).toBe(7);
      expect((await harness.run(["bash", "-c", "kill -TERM $$"])).exitCode).toBe(128 + 15);
    });

    test("a command that does not exist is an exit code and a line in the log", async () => {
      const { exitCode, output } = await harness.run(["no-such-program"]);
      expect(exitCode).toBeGreaterThan(0);
      expect(output).toContain("no-such-program");
    });

    test("standard input arrives whole and ends, through a pipe", async () => {
      const secret = "line one\n".repeat(20_000);
      const { output } = await harness.run(["bash", "-c", "readlink /proc/self/fd/0; md5sum; [ -p /dev/stdin ] && echo pipe"], {
        stdin: Buffer.from(secret),
      });
      expect(output).toContain(createHash("md5").update(secret).digest("hex"));
      expect(output).toMatch(/^pipe:.*pipe$/s);
    });

    test("output and errors are appended to the log", async () => {
      const spec = harness.spec(["bash", "-c", "echo out; echo err >&2"]);
      writeFileSync(spec.logPath, "before\n");
      const handle = await harness.driver.start(spec);
      await harness.driver.wait(handle, soon());
      await harness.driver.destroy(handle);
      expect(harness.log(spec)).toBe("before\nout\nerr\n");
    });

    test("the environment is exactly the one specified", async () => {
      const { output } = await harness.run(["/usr/bin/env"], { environment: { ONE: '1 "two" $three\nfour' } });
      expect(output.replace(/\n?^PWD=.*$/m, "").trim()).toBe('ONE=1 "two" $three\nfour');
    });

    test("what is written to a writable mount is there for the host and for the next sandbox", async () => {
      const workspace = join(harness.directory, "kept workspace");
      mkdirSync(workspace);
      const writable = [{ source: workspace, target: "/workspace" }];
      await harness.run(["bash", "-c", "mkdir deep; echo first > deep/file; ln -s /etc/passwd link"], { writable });
      expect(readFileSync(join(workspace, "deep/file"), "utf8")).toBe("first\n");
      const { output } = await harness.run(["bash", "-c", "echo second >> deep/file && cat deep/file"], { writable });
      expect(output).toBe("first\nsecond");
    });

    test("an id in use is refused, and the sandbox that has it is unharmed", async () => {
      const spec = harness.spec(["sleep", "60"]);
      const handle = await harness.driver.start(spec);
      await expect(harness.driver.start(spec)).rejects.toThrow(/exists already/);
      expect(await harness.driver.inspect(handle)).toEqual({ state: "running" });
      await harness.driver.destroy(handle);
    });

    test("a sandbox that cannot start throws and leaves nothing", async () => {
      const spec = harness.spec(["true"], { writable: [{ source: join(harness.directory, "missing"), target: "/workspace" }] });
      await expect(harness.driver.start(spec)).rejects.toThrow(/missing|did not start|ENOENT/);
      expect(await harness.driver.list()).toEqual([]);
    });

    test.each([
      ["an id with a slash", { id: "../x" }],
      ["an empty command", { command: [] }],
      ["a relative mount target", { writable: [{ source: "/tmp", target: "workspace" }] }],
      ["a mount target with ..", { writable: [{ source: "/tmp", target: "/workspace/../etc" }] }],
      ["a mount over /proc", { readOnly: [{ source: "/tmp", target: "/proc" }] }],
      ["no room to write", { writable: [{ source: "/tmp", target: "/workspace", limitBytes: 1000 }] }],
      ["no memory", { limits: { memoryBytes: 0, cpus: 1, processes: 10 } }],
      ["NUL in the environment", { environment: { A: "x\0--share-net" } }],
    ])("%s is refused before anything is made", async (_what, change) => {
      await expect(harness.driver.start(harness.spec(["true"], change))).rejects.toThrow(/sandbox specification/);
      expect(await harness.driver.list()).toEqual([]);
    });

    test("destroying kills all, also what left its session and ignores signals, and can be repeated", async () => {
      const spec = harness.spec([
        "bash",
        "-c",
        'setsid bash -c "trap : TERM HUP INT; echo \\$\\$ > ready; while :; do sleep 1; done" & sleep 60',
      ]);
      const handle = await harness.driver.start(spec);
      const workspace = spec.writable[0]?.source ?? "";
      await expect.poll(() => existsSync(join(workspace, "ready"))).toBe(true);
      const before = descendantsOf(handle.supervisor?.pid);
      expect(before.length).toBeGreaterThan(2);
      await harness.driver.destroy(handle);
      expect(before.filter(isRunning)).toEqual([]);
      await harness.driver.destroy(handle);
      expect(await harness.driver.inspect(handle)).toEqual({ state: "exited", exitCode: null });
    });

    test("what a command leaves running ends with it", async () => {
      const spec = harness.spec(["bash", "-c", "setsid sleep 4321 & sleep 0.3; exit 5"]);
      const handle = await harness.driver.start(spec);
      await sleep(100);
      const before = descendantsOf(handle.supervisor?.pid);
      expect(await harness.driver.wait(handle, soon())).toEqual({ state: "exited", exitCode: 5 });
      await expect.poll(() => before.filter(isRunning)).toEqual([]);
      await harness.driver.destroy(handle);
    });

    test("waiting ends when its signal does", async () => {
      const handle = await harness.driver.start(harness.spec(["sleep", "60"]));
      await expect(harness.driver.wait(handle, AbortSignal.timeout(50))).rejects.toThrow(/timeout/);
      expect(await harness.driver.inspect(handle)).toEqual({ state: "running" });
      await harness.driver.destroy(handle);
    });

    test("another driver over the same state finds, watches and destroys a sandbox", async () => {
      const handle = await harness.driver.start(harness.spec(["bash", "-c", "sleep 0.5; exit 9"]));
      const longer = await harness.driver.start(harness.spec(["sleep", "60"]));
      const restarted = await makeDriver(harness.stateDirectory);
      const found = await restarted.list();
      expect(found).toEqual(expect.arrayContaining([handle, longer]));
      expect(JSON.parse(JSON.stringify(found))).toEqual(found);
      expect(await restarted.inspect(handle)).toEqual({ state: "running" });
      expect(await restarted.wait(handle, soon())).toEqual({ state: "exited", exitCode: 9 });
      for (const each of found) await restarted.destroy(each);
      expect(await harness.driver.inspect(longer)).toEqual({ state: "exited", exitCode: null });
      expect(await harness.driver.list()).toEqual([]);
    });

    test("a sandbox outlives a control plane that is killed, and its exit code is still learnt", async () => {
      const spec = harness.spec(["bash", "-c", "read -r word; sleep 1; echo $word; exit 11"], { stdin: Buffer.from("token\n") });
      const handle = await startFromDyingOwner(harness.stateDirectory, spec);
      expect(handle.labels).toEqual(spec.labels);
      expect(await harness.driver.inspect(handle)).toEqual({ state: "running" });
      expect(await harness.driver.list()).toEqual([handle]);
      expect(await harness.driver.wait(handle, soon())).toEqual({ state: "exited", exitCode: 11 });
      expect(harness.log(spec)).toBe("token\n");
      await harness.driver.destroy(handle);
      expect(await harness.driver.list()).toEqual([]);
    });

    test("a sandbox whose control plane was killed dies when it is told to", async () => {
      const handle = await startFromDyingOwner(harness.stateDirectory, harness.spec(["sleep", "60"]));
      const before = descendantsOf(handle.supervisor?.pid);
      await harness.driver.destroy(handle);
      expect(before.filter(isRunning)).toEqual([]);
    });

    test("a process that merely has a recorded number is left alone", async () => {
      const handle = await harness.driver.start(harness.spec(["true"]));
      await harness.driver.wait(handle, soon());
      await harness.driver.destroy(handle);
      const stranger = spawn("sleep", ["60"], { detached: true });
      const mistaken = { pid: stranger.pid ?? 0, startTime: "1" };
      const stale = { ...handle, supervisor: mistaken, init: mistaken };
      expect(await harness.driver.inspect(stale)).toEqual({ state: "exited", exitCode: null });
      await harness.driver.destroy(stale);
      expect(isRunning(stranger.pid)).toBe(true);
      stranger.kill();
    });

    test("memory beyond the limit kills, memory below it does not", async ({ skip }) => {
      if (!harness.driver.enforced.memory) skip(harness.driver.enforced.reason);
      const eat = ["perl", "-e", '$x = "a" x (200 << 20); print "ate\\n"'];
      const limit = (megabytes: number) => ({ limits: { memoryBytes: megabytes * 2 ** 20, cpus: 2, processes: 50 } });
      expect(await harness.run(eat, limit(64))).toEqual({ exitCode: 137, output: "" });
      expect(await harness.run(eat, limit(600))).toEqual({ exitCode: 0, output: "ate" });
    });

    test("files in memory are limited too", async () => {
      const fill = ["bash", "-c", "for where in /tmp /dev/shm; do head -c 40M /dev/zero > $where/f && echo fits; rm -f $where/f; done"];
      const limit = (megabytes: number) => ({ limits: { memoryBytes: megabytes * 2 ** 20, cpus: 2, processes: 50 } });
      expect((await harness.run(fill, limit(64))).output).not.toContain("fits");
      expect((await harness.run(fill, limit(256))).output).toBe("fits\nfits");
    });

    test("a directory takes no more than its limit, in one file or in many, and keeps what it took for the next sandbox", async ({
      skip,
    }) => {
      if (!harness.driver.enforced.disk) skip(harness.driver.enforced.reason);
      const workspace = join(harness.directory, "limited workspace");
      mkdirSync(workspace);
      const writable = [{ source: workspace, target: "/workspace", limitBytes: 64 * 2 ** 20 }];
      const one = "ls -A; echo kept > small; head -c 30M /dev/zero > fits && echo fits; head -c 40M /dev/zero > over || rm over";
      const many = "mkdir many; for i in {1..40}; do head -c 1M /dev/zero > many/$i || break; done; echo stopped at $i";
      const first = await harness.run(["bash", "-c", `${one}; ${many}`], { writable });
      expect(first.output).toMatch(/^fits\n.*No space left on device\n.*No space left on device\nstopped at (2\d|3[0-3])$/s);
      const next = await harness.run(["bash", "-c", "cat small; rm -r many; head -c 20M /dev/zero > again && echo room again"], {
        writable,
      });
      expect(next.output).toBe("kept\nroom again");
      // What was deleted costs the host nothing, a moment later.
      await harness.run(["bash", "-c", "rm -r *; sync -f .; sleep 0.5"], { writable });
      await expect.poll(() => statSync(`${workspace}.image`).blocks * 512).toBeLessThan(10 * 2 ** 20);
    });

    test("a limited directory is taken up by the next sandbox however the last one ended, and no device stays behind", async ({ skip }) => {
      if (!harness.driver.enforced.disk) skip(harness.driver.enforced.reason);
      const workspace = mkdtempSync(join(harness.directory, "retaken workspace "));
      const writable = [{ source: workspace, target: "/workspace", limitBytes: 64 * 2 ** 20 }];
      for (let round = 1; round <= 10; round += 1) {
        // What it counts is written before it says so, and it may be ended in the middle of what follows.
        const command = "echo x >> lines; wc -l < lines; head -c 8M /dev/zero > load; exec sleep 60";
        const spec = harness.spec(["bash", "-c", command], { writable });
        const handle = await harness.driver.start(spec);
        await expect.poll(() => harness.log(spec).trim(), { timeout: 15_000 }).toBe(String(round));
        await harness.driver.destroy(handle);
      }
      // More at once than machines have devices from the beginning.
      const many = Array.from({ length: 12 }, (_, index) => {
        const source = join(harness.directory, `one of many ${index}`);
        mkdirSync(source);
        return harness.spec(["bash", "-c", "echo here > file; cat file"], {
          writable: [{ source, target: "/workspace", limitBytes: 64 * 2 ** 20 }],
        });
      });
      const handles = await Promise.all(many.map((spec) => harness.driver.start(spec)));
      await Promise.all(handles.map((handle) => harness.driver.wait(handle, soon())));
      expect(many.map((spec) => harness.log(spec))).toEqual(many.map(() => "here\n"));
      await Promise.all(handles.map((handle) => harness.driver.destroy(handle)));
      await expect.poll(() => loopFiles().filter((file) => file.startsWith(harness.directory))).toEqual([]);
    });

    test("no single file grows past the largest limit", async () => {
      const workspace = join(harness.directory, "file workspace");
      mkdirSync(workspace);
      const writable = [{ source: workspace, target: "/workspace", limitBytes: 32 * 2 ** 20 }];
      const { output } = await harness.run(["bash", "-c", "ulimit -Hf; truncate -s 31M a && echo fits; truncate -s 33M b; stat -c %s b"], {
        writable,
      });
      expect(output.split("\n").slice(0, 2)).toEqual([String(32 * 1024), "fits"]);
      expect(output).toMatch(/\n0$/);
    });

    test("processes beyond the limit are refused", async ({ skip }) => {
      if (!harness.driver.enforced.processes) skip(harness.driver.enforced.reason);
      const fork = 'for (1..100) { my $pid = fork // last; if (!$pid) { sleep 20; exit } $n++ } print "$n\\n"; kill 9, -getpgrp';
      const limit = (processes: number) => ({ limits: { memoryBytes: 2 ** 29, cpus: 2, processes } });
      const count = async (processes: number) => Number((await harness.run(["perl", "-e", `$| = 1; ${fork}`], limit(processes))).output);
      expect(await count(150)).toBe(100);
      const few = await count(20);
      expect(few).toBeGreaterThan(10);
      expect(few).toBeLessThanOrEqual(23);
    });

    test("a sandbox gets no more processor time than its limit", async ({ skip }) => {
      if (!harness.driver.enforced.cpus) skip(harness.driver.enforced.reason);
      const spin = [
        "perl",
        "-MTime::HiRes=time",
        "-e",
        "$end = time + 1; 1 while time < $end; ($user, $system) = times; print $user + $system",
      ];
      const { output } = await harness.run(spin, { limits: { memoryBytes: 2 ** 28, cpus: 0.2, processes: 50 } });
      expect(Number(output)).toBeLessThan(0.45);
    });

    test("the limit of processor time can be lifted and set again, and nothing happens once the sandbox is gone", async ({ skip }) => {
      if (!harness.driver.enforced.cpus) skip(harness.driver.enforced.reason);
      const spin = ["bash", "-c", "while :; do :; done"];
      const handle = await harness.driver.start(harness.spec(spin, { limits: { memoryBytes: 2 ** 28, cpus: 0.05, processes: 50 } }));
      const limits = () =>
        handle.cgroups.flatMap((path) => ["cpu.cfs_quota_us", "cpu.max"].map((file) => readIfThere(join(path, file)))).join("");
      const before = limits();
      await harness.driver.setCpus(handle, Number.POSITIVE_INFINITY);
      expect(limits()).toMatch(/^(-1|max 200000)$/);
      await harness.driver.setCpus(handle, 0.05);
      expect(limits()).toBe(before);
      await harness.driver.destroy(handle);
      await harness.driver.setCpus(handle, 1);
      expect(await harness.driver.list()).toEqual([]);
    });

    test("what a control plane left behind that died before its sandbox was on record is gone with the next one", async () => {
      const unwritten = join(harness.stateDirectory, "sandboxes", "box-unwritten");
      mkdirSync(unwritten, { mode: 0o700 });
      const half = join(harness.stateDirectory, "sandboxes", "box-half");
      mkdirSync(half, { mode: 0o700 });
      writeFileSync(join(half, "record.json"), '{"driver":');
      await makeDriver(harness.stateDirectory);
      expect([existsSync(unwritten), existsSync(half)]).toEqual([false, false]);
    });

    test("a hundred sandboxes made and destroyed leave nothing behind", async () => {
      const started: SandboxHandle[] = [];
      // The first ones count as well: what they made must be gone when the last ones are.
      const round = async () => {
        const commands = Array.from({ length: 4 }, () => harness.spec(["bash", "-c", "setsid sleep 4321 & exec sleep 4321"]));
        const handles = await Promise.all(commands.map((spec) => harness.driver.start(spec)));
        expect(new Set(handles.map((handle) => handle.uid ?? handle.id)).size).toBe(4);
        started.push(...handles);
        expect(traces(harness, handles)).not.toEqual(nothing);
        await Promise.all(handles.map((handle) => harness.driver.destroy(handle)));
      };
      await round();
      const before = ownTraces(harness);
      for (let rounds = 1; rounds < 25; rounds++) await round();
      expect(traces(harness, started)).toEqual(nothing);
      expect(ownTraces(harness)).toEqual(before);
      expect(await harness.driver.list()).toEqual([]);
    });
  });
}

/** The files behind the loop devices of this machine. */
function loopFiles(): string[] {
  return readdirSync("/sys/block")
    .filter((name) => name.startsWith("loop") && existsSync(`/sys/block/${name}/loop/backing_file`))
    .map((name) => readFileSync(`/sys/block/${name}/loop/backing_file`, "utf8").trim());
}

function descendantsOf(ancestor: number | undefined): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const line = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(line.slice(line.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It ended between being listed and being read.
    }
  }
  const family = new Set([ancestor]);
  for (let size = 0; size !== family.size; ) {
    size = family.size;
    for (const [pid, parent] of parents) if (family.has(parent)) family.add(pid);
  }
  return [...family].filter((pid) => pid !== undefined && isRunning(pid)) as number[];
}

const nothing = { groups: [], processes: [], directories: [], reservations: [] };

/** What these sandboxes left on the machine. */
function traces({ stateDirectory }: Harness, handles: readonly SandboxHandle[]) {
  const uids = new Set(handles.map((handle) => handle.uid));
  const reserved = join(stateDirectory, "uids");
  return {
    groups: handles.flatMap((handle) => handle.cgroups).filter((path) => existsSync(path)),
    processes: readdirSync("/proc").filter((name) => /^\d+$/.test(name) && belongsTo(name, uids)),
    directories: handles.map((handle) => handle.directory).filter((path) => existsSync(path)),
    reservations: existsSync(reserved) ? readdirSync(reserved) : [],
  };
}

/** What this process and the driver's own files consist of. */
function ownTraces({ stateDirectory }: Harness) {
  return {
    state: readdirSync(stateDirectory, { recursive: true }).map(String).sort(),
    mounts: readFileSync("/proc/self/mountinfo", "utf8").split("\n").length,
    descriptors: readdirSync("/proc/self/fd").length,
  };
}

// By the word in the command, and, where a sandbox has a user of its own, by that.
function belongsTo(pid: string, uids: ReadonlySet<number | null>): boolean {
  try {
    if (!isRunning(Number(pid))) return false;
    const uid = Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
    return uids.has(uid) || readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("sleep\x004321");
  } catch {
    // It ended between being listed and being read.
    return false;
  }
}

function readIfThere(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8").trim() : "";
}
