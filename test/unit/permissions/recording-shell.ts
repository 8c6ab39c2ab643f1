import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { plainNames } from "./commands.ts";

/** Programs that really run, because what they start is the point; each is recorded first and finds nothing but recorders. */
const startersByName = ["timeout", "nice", "nohup", "stdbuf", "xargs", "env", "bash", "sh"] as const;

/** What one command made bash run: the words of each program or unknown name, in no certain order. */
export type Execution = readonly (readonly string[])[];

export type RecordingShell = { run(commands: readonly string[]): Promise<Execution[]>; close(): Promise<void> };

// Names without a program are recorded by bash's own hook, which saves starting one; `qcat` also speaks, so that `xargs` gets words.
const driver = `
command_not_found_handle() {
  printf '%s\\0' "$QREC" "$#" "$@" >>"$QLOG"
  case $1 in qcat) echo push;; qno) return 1;; q*) ;; *) return 127;; esac
}
export -f command_not_found_handle
i=0
while IFS= read -r -d '' c <&9; do
  ( export QREC=$i; eval "$c"; wait ) </dev/null >/dev/null 2>&1 9<&-
  i=$((i+1))
done 9<"$QDIR/commands"
`;

/** A real bash in an empty directory with an empty environment, whose PATH holds recorders only. */
export async function openRecordingShell(): Promise<RecordingShell> {
  const folder = await mkdtemp(join(tmpdir(), "carrel-shell-"));
  const [starters, recorders, work] = ["starters", "recorders", "work"].map((name) => join(folder, name)) as [string, string, string];
  for (const each of [starters, recorders, work]) await mkdir(each);
  const record = `printf '%s\\0' "$QREC" "$(($#+1))" "\${0##*/}" "$@" >>"$QLOG"`;
  for (const name of startersByName)
    await script(join(starters, name), `${record}\nPATH=${recorders}:${starters}\nexport PATH\nexec ${await realPath(name)} "$@"\n`);
  for (const name of [...plainNames, "qno"]) await script(join(recorders, name), `${record}\n`);
  await writeFile(join(work, "qrm"), "");
  return {
    // A random function may call itself; bash stops it at this depth.
    run: (commands) =>
      runBatch(
        folder,
        { FUNCNEST: "4", PATH: starters, HOME: work, QDIR: folder, QLOG: join(folder, "log"), QRM: "qrm", X: "x y" },
        commands,
      ),
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

async function script(path: string, text: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${text}`);
  await chmod(path, 0o755);
}

async function realPath(name: string): Promise<string> {
  for (const path of [`/usr/bin/${name}`, `/bin/${name}`]) {
    if (
      await readFile(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  throw new Error(`this test needs the program ${name}`);
}

async function runBatch(folder: string, environment: Record<string, string>, commands: readonly string[]): Promise<Execution[]> {
  const log = environment["QLOG"] ?? "";
  await writeFile(join(folder, "commands"), commands.map((command) => `${command}\0`).join(""));
  await writeFile(log, "");
  // A process group of its own: whatever a command leaves behind ends with the batch.
  const shell = spawn("/bin/bash", ["--norc", "--noprofile", "-c", driver], {
    cwd: join(folder, "work"),
    env: environment,
    stdio: "ignore",
    detached: true,
  });
  const deadline = setTimeout(() => killGroup(shell.pid), 30_000);
  const code = await new Promise<number | null>((resolve, reject) => {
    shell.once("error", reject);
    shell.once("close", resolve);
  });
  clearTimeout(deadline);
  killGroup(shell.pid);
  const executions = parseLog(await readFile(log, "utf8"), commands.length);
  if (code === null)
    throw new Error(
      `bash did not come to an end after ${JSON.stringify(commands.slice(executions.findLastIndex((each) => each.length > 0)).slice(0, 5))}`,
    );
  return executions;
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** The log is a sequence of: number of the command, count of words, the words; each ended by a NUL. */
function parseLog(text: string, commands: number): Execution[] {
  const executions: string[][][] = Array.from({ length: commands }, () => []);
  const fields = text.split("\0");
  let at = 0;
  while (at + 1 < fields.length) {
    const count = Number(fields[at + 1]);
    executions[Number(fields[at])]?.push(fields.slice(at + 2, at + 2 + count));
    at += 2 + count;
  }
  return executions;
}
