import { spawn } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { refusedCalls } from "../../server/sandbox/syscalls.ts";
import {
  attemptInOwnNamespaces,
  attemptOutside,
  createHarness,
  escapePrograms,
  type Harness,
  isRoot,
  type MakeDriver,
  outside,
  startFromDyingOwner,
} from "./sandbox-harness.ts";

const secret = "planted-secret-of-the-control-plane";
const architecture = process.arch === "arm64" ? "arm64" : "x64";

/** What a driver must deny. Each attempt is also made outside, where it has to succeed: else its failing inside means nothing. */
export function sandboxDenials(name: string, makeDriver: MakeDriver): void {
  describe(`a hostile program in a sandbox (${name})`, { timeout: 60_000 }, () => {
    let harness: Harness;
    beforeAll(async () => {
      process.env["CARREL_PLANTED"] = secret;
      harness = await createHarness(makeDriver);
    });
    afterAll(async () => {
      delete process.env["CARREL_PLANTED"];
      await harness.close();
    });

    const onlyInside = async (attempt: string[], refusal: string | RegExp, control: Promise<string> = attemptOutside(...attempt)) => {
      expect(await control).toMatch(/^done/);
      expect(await harness.attempt(...attempt)).toMatch(refusal);
    };

    test("sees no file of the host, nor the data directory, nor another sandbox", async () => {
      const hostFile = join(harness.directory, "host-file");
      writeFileSync(hostFile, secret);
      const other = harness.spec(["sleep", "60"]);
      writeFileSync(join(other.writable[0]?.source ?? "", "mine"), secret);
      const handle = await harness.driver.start(other);
      await onlyInside(["read", hostFile], "refused ENOENT");
      await onlyInside(["list", harness.directory], "refused ENOENT");
      await onlyInside(
        ["read", join(other.writable[0]?.source ?? "", "mine")],
        "refused ENOENT",
        isRoot ? undefined : Promise.resolve("done"),
      );
      await onlyInside(["list", "/sys"], "refused ENOENT");
      expect(await harness.attempt("read", "/etc/shadow")).toBe("refused ENOENT");
      expect(await harness.attempt("list", "/root")).toBe("refused ENOENT");
      await harness.driver.destroy(handle);
    });

    test("finds a root directory with nothing in it but the system and its mounts", async () => {
      const usual = [
        "bin",
        "dev",
        "escape",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "run",
        "sbin",
        "tmp",
        "usr",
        "var",
        "workspace",
      ];
      const found = (await harness.attempt("list", "/")).split(" ").slice(1);
      expect(found.filter((entry) => !usual.includes(entry))).toEqual([]);
      expect(await harness.attempt("list", "/run")).toBe("done");
      expect(await harness.attempt("list", "/var")).toBe("done");
    });

    test("cannot write to the system or to read-only mounts", async () => {
      const shared = join(harness.directory, "shared");
      mkdirSync(shared, { mode: 0o777 });
      chmodSync(shared, 0o777);
      const { output } = await harness.run(["perl", "/escape/attempt.pl", "write", "/shared/file"], {
        readOnly: [
          { source: escapePrograms, target: "/escape" },
          { source: shared, target: "/shared" },
        ],
      });
      expect(output).toBe("refused EROFS");
      await onlyInside(["write", join(shared, "file")], "refused ENOENT");
      for (const path of ["/file", "/etc/file", "/usr/file", "/dev/file", "/run/file", "/var/file"]) {
        expect(await harness.attempt("write", path)).toMatch(/^refused (EROFS|EACCES)$/);
      }
      for (const path of ["/workspace/file", "/tmp/file", "/dev/shm/file"]) {
        expect(await harness.attempt("write", path)).toBe("done");
      }
    });

    test("sees no process of the host and cannot signal one", async () => {
      const bystander = spawn("sleep", ["98765"], { env: { CARREL_PLANTED: secret } });
      await onlyInside(["processes", backwards("98765")], "refused ENOENT");
      await onlyInside(["signal", String(bystander.pid)], "refused ESRCH");
      await onlyInside(["environments", secret], "refused ENOENT");
      bystander.kill();
    });

    test("inherits no descriptor, not even one the control plane inherited itself", async () => {
      const hostFile = join(harness.directory, "open-file");
      writeFileSync(hostFile, secret);
      const spec = harness.spec(["perl", "/escape/attempt.pl", "descriptors", "/"]);
      const leak = `exec 20<"$1" 30<"$1" 9<"$1"; exec "$2" "$3" "$4"`;
      await onlyInside(
        ["descriptors", "open-file"],
        "refused ENOENT",
        outside(["bash", "-c", `exec 20<"$1"; exec perl "$2" descriptors open-file`, "-", hostFile, join(escapePrograms, "attempt.pl")]),
      );
      const handle = await startFromDyingOwner(harness.stateDirectory, spec, ["bash", "-c", leak, "-", hostFile]);
      await harness.driver.wait(handle, AbortSignal.timeout(10_000));
      // Looking takes descriptors too: of /proc and of the program itself.
      const found = harness
        .log(spec)
        .trim()
        .split(" ")
        .filter((entry) => /=/.test(entry) && !/=\/(proc|escape)\//.test(entry));
      expect(found.filter((entry) => !/=(anon_inode:\[eventfd\]|pipe:\[\d+\])$/.test(entry))).toEqual([]);
      await harness.driver.destroy(handle);
    });

    test("has no network: not the host, not the world, no interface but its own loopback", async () => {
      const tcp = await listen({ host: "127.0.0.1", port: 0 });
      const port = String((tcp.address() as { port: number }).port);
      await onlyInside(["tcp", "127.0.0.1", port], /^refused ECONNREFUSED$/);
      tcp.close();
      expect(await harness.attempt("udp", "192.0.2.1")).toBe("refused ENETUNREACH");
      expect(await harness.attempt("tcp", "169.254.169.254", "80")).toBe("refused ENETUNREACH");
      const { output } = await harness.run([
        "bash",
        "-c",
        "tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route; cat /etc/resolv.conf",
      ]);
      expect(output.replace(/cat: .*/, "").trim()).toBe("lo");
    });

    test("reaches no socket of the host: by path, by abstract name, by vsock", async () => {
      const path = join(harness.directory, "host.sock");
      const byPath = await listen({ path });
      await onlyInside(["unix", path], "refused ENOENT");
      byPath.close();
      const abstract = `carrel-abstract-${process.pid}`;
      const byName = await listen({ path: `\0${abstract}` });
      await onlyInside(["unix", `@${abstract}`], "refused ECONNREFUSED");
      byName.close();
      expect(await attemptOutside("socket", "40", "1")).not.toBe("refused EPERM");
      expect(await harness.attempt("socket", "40", "1")).toBe("refused EPERM");
    });

    test("reaches the one socket it was given, also below a directory closed to its user", async () => {
      const directory = join(harness.directory, "channel");
      mkdirSync(directory, { mode: 0o755 });
      const server = await listen({ path: join(directory, "channel.sock") });
      chmodSync(join(directory, "channel.sock"), 0o666);
      const { output } = await harness.run(["perl", "/escape/attempt.pl", "unix", "/run/carrel/channel.sock"], {
        readOnly: [
          { source: escapePrograms, target: "/escape" },
          { source: directory, target: "/run/carrel" },
        ],
      });
      expect(output).toBe("done");
      server.close();
    });

    test.each([
      ["packet", ["17", "3"]],
      ["crypto", ["38", "5"]],
      ["key management", ["15", "3", "2"]],
      ["firewall netlink", ["16", "3", "12"]],
      ["audit netlink", ["16", "3", "9"]],
      ["vsock", ["40", "1"]],
    ])("opens no %s socket", async (kind, words) => {
      // A raw socket needs root outside; all others are refused by nothing but the filter.
      if (isRoot || kind !== "packet") expect(await attemptOutside("socket", ...words)).not.toBe("refused EPERM");
      expect(await harness.attempt("socket", ...words)).toBe("refused EPERM");
    });

    test.each([
      ["a user namespace", ["unshare", "10000000"]],
      ["a user namespace by clone", ["clone", "10000000"]],
      ["a network and a user namespace", ["unshare", "50000000"]],
      ["a traced child", ["ptrace"]],
      ["an io_uring", ["io_uring"]],
      ["a keyring", ["keyctl"]],
      ["another personality", ["personality", "40000"]],
    ])("gets no %s", (_what, attempt) => onlyInside(attempt, "refused EPERM"));

    test("mounts nothing", () => onlyInside(["mount", "/tmp"], "refused EPERM", attemptInOwnNamespaces("mount", "/tmp")));

    test("loads no program into the kernel", async ({ skip }) => {
      if ((await attemptOutside("bpf")) !== "done") skip("an ordinary user may not do this outside either");
      await onlyInside(["bpf"], "refused EPERM");
    });

    test("is told that clone3 does not exist, so that libraries use what can be examined", async () => {
      expect(await attemptOutside("clone3")).toBe("refused EINVAL");
      expect(await harness.attempt("clone3")).toBe("refused ENOSYS");
    });

    test("types nothing into a terminal", async () => {
      if (isRoot) expect(await attemptOutside("type_into_terminal")).not.toBe("refused EPERM");
      expect(await harness.attempt("type_into_terminal")).toBe("refused EPERM");
    });

    test("is killed when it uses the call convention of another architecture", async ({ skip }) => {
      const control = await attemptOutside("foreign_program", harness.directory);
      if (control !== "done") skip("this kernel does not run such programs at all");
      expect(await harness.attempt("foreign_program", "/workspace")).toBe("killed 31");
    });

    test("gets EPERM for every call on the list, before the kernel looks at its arguments", async () => {
      // Outside, vhangup has no arguments to be wrong and would act; and some calls need root to get as far as that.
      const calls = refusedCalls(architecture).map(({ name: call, number }) => `${call}=${number}`);
      const inside = await harness.run(["perl", "/escape/calls.pl", ...calls]);
      expect(inside.output.split("\n").filter((line) => !line.endsWith(" EPERM"))).toEqual([]);
      expect(inside.output.split("\n")).toHaveLength(calls.length);
      if (!isRoot) return;
      const harmless = calls.filter((call) => !call.startsWith("vhangup="));
      const control = await outside(["perl", join(escapePrograms, "calls.pl"), ...harmless]);
      expect(control.split("\n").filter((line) => line.endsWith(" EPERM"))).toEqual([]);
    });

    test("makes no device and finds only harmless ones", async () => {
      if (isRoot) await onlyInside(["device", join(harness.directory, "memory")], "refused ENOENT");
      expect(await harness.attempt("device", "/workspace/memory")).toBe("refused EPERM");
      const devices = (await harness.attempt("list", "/dev")).split(" ").slice(1);
      expect(devices).toEqual([
        "core",
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
      ]);
    });

    test("is an ordinary user without capabilities, and a setuid program does not change that", async ({ skip }) => {
      const { output } = await harness.run([
        "bash",
        "-c",
        'id -u; grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/self/status; hostname; cat /proc/self/cgroup',
      ]);
      expect(output).toMatch(/^1000\n/);
      expect(output.match(/^Cap\w+:\s+0+$/gm)).toHaveLength(5);
      expect(output).toMatch(/^NoNewPrivs:\s+1$/m);
      expect(output).toMatch(/^Seccomp:\s+2$/m);
      expect(output).toMatch(/^carrel$/m);
      expect(output.match(/^\d+:.*:\/$/gm)?.length).toBe(output.match(/^\d+:.*$/gm)?.length);
      if (!isRoot) skip("only root can make a program that becomes root");
      const tools = join(harness.directory, "tools");
      mkdirSync(tools, { mode: 0o755 });
      copyFileSync("/usr/bin/perl", join(tools, "perl"));
      chmodSync(join(tools, "perl"), 0o4755);
      chmodSync(harness.directory, 0o755);
      const control = await outside(["setpriv", "--reuid=65534", "--clear-groups", join(tools, "perl"), "-e", 'print "$< $>"']);
      chmodSync(harness.directory, 0o700);
      expect(control).toBe("65534 0");
      const inside = await harness.run(["/tools/perl", "-e", 'print "$< $>"'], { readOnly: [{ source: tools, target: "/tools" }] });
      expect(inside.output).toBe("1000 1000");
    });

    test("runs as a user of the host that is not root and belongs to no other sandbox", async ({ skip }) => {
      if (!isRoot) skip("sandboxes of an ordinary user run as that user");
      const handles = [
        await harness.driver.start(harness.spec(["sleep", "60"])),
        await harness.driver.start(harness.spec(["sleep", "60"])),
      ];
      const real = await Promise.all(handles.map((handle) => outside(["grep", "^Uid:", `/proc/${handle.init?.pid}/status`])));
      expect(new Set(real).size).toBe(2);
      for (const line of real) expect(Number(line.split(/\s+/)[1])).toBeGreaterThan(100_000);
      for (const handle of handles) await harness.driver.destroy(handle);
    });

    test("hides what the sandbox was given from other users of the host", async () => {
      const environment = { PATH: "/usr/bin", SECRET_OF_A_USER: "in-the-environment" };
      const handle = await harness.driver.start(harness.spec(["sleep", "60.24680"], { environment }));
      expect(await attemptOutside("processes", backwards("60.24680"))).toMatch(/^done/);
      expect(await attemptOutside("processes", backwards("in-the-environment"))).toBe("refused ENOENT");
      await harness.driver.destroy(handle);
    });
  });

  describe(`an honest program in a sandbox (${name})`, { timeout: 60_000 }, () => {
    let harness: Harness;
    beforeAll(async () => {
      harness = await createHarness(makeDriver);
    });
    afterAll(() => harness.close());

    test("git, a shell with jobs, and a C library that asks who it is work", async () => {
      const { output, exitCode } = await harness.run(
        [
          "bash",
          "-c",
          "set -e; git init -q r; cd r; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one; git log --format=%s; (sleep 0.01 & wait); whoami; date > /dev/null; getent hosts localhost",
        ],
        {
          environment: { PATH: "/usr/bin:/bin", HOME: "/tmp" },
        },
      );
      expect(exitCode, output).toBe(0);
      expect(output).toMatch(/^one\nagent\n(127\.0\.0\.1|::1)/);
    });

    test("Node with threads, children, sockets and timers works", async () => {
      const program = `
        import { Worker } from 'node:worker_threads'; import { execFileSync } from 'node:child_process'; import { createServer, connect } from 'node:net';
        const fromThread = await new Promise((done) => new Worker('import("worker_threads").then((threads) => threads.parentPort.postMessage("thread"))', { eval: true }).once('message', done));
        const fromChild = execFileSync('bash', ['-c', 'echo child']).toString().trim();
        const fromSocket = await new Promise((done) => { const server = createServer((socket) => { socket.end('socket'); server.close(); }).listen(0, '127.0.0.1', () => connect(server.address().port, '127.0.0.1').once('data', (data) => done(String(data)))); });
        console.log(fromThread, fromChild, fromSocket, process.getuid());`;
      const { output } = await harness.run(["/node", "--input-type=module", "-e", program], {
        readOnly: [{ source: process.execPath, target: "/node" }],
      });
      expect(output).toBe("thread child socket 1000");
    });

    test("the agent itself starts", async ({ skip }) => {
      const agent = resolve(import.meta.dirname, `../../node_modules/@anthropic-ai/claude-agent-sdk-linux-${architecture}/claude`);
      if (!existsSync(agent)) skip("it is not installed");
      const { output } = await harness.run(["/claude", "--version"], {
        readOnly: [{ source: agent, target: "/claude" }],
        environment: { PATH: "/usr/bin:/bin", HOME: "/workspace" },
        limits: { memoryBytes: 2 ** 31, cpus: 2, processes: 200 },
      });
      expect(output).toMatch(/^\d+\.\d+\.\d+ \(Claude Code\)$/);
    });
  });
}

function backwards(word: string): string {
  return [...word].reverse().join("");
}

function listen(where: { host: string; port: number } | { path: string }): Promise<Server> {
  return new Promise((settle, reject) => {
    const server = createServer((socket) => socket.end()).once("error", reject);
    server.listen(where, () => settle(server));
  });
}
