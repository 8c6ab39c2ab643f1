import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { startAgent } from "../../runner/agent.ts";
import { stampsIn } from "./model.ts";
import { createTurns, type Talker } from "./talker.ts";

/** The `claude` program with nothing around it: the floor of everything a session does. */
export type RawAgent = Talker & { pid: number; kept: Kept };

/** What is left of an agent that has ended, to go on from. */
export type Kept = { home: string; readonly conversation: string };

export type RawAgentOptions = { claudePath: string; directory: string; modelUrl: string; key: string };

/** The arguments that the runner's adapter gives the agent, learnt by giving it a program that writes them down. */
export async function agentArguments(directory: string): Promise<string[]> {
  const program = join(directory, "write-arguments");
  const found = join(directory, "arguments");
  await writeFile(program, `#!/bin/sh\nprintf '%s\\0' "$@" > '${found}'\n`);
  await chmod(program, 0o755);
  const agent = startAgent({
    claudePath: program,
    cwd: directory,
    model: "",
    planMode: false,
    environment: { PATH: "/usr/bin:/bin", HOME: directory },
    mcpServers: {},
    resume: "",
    observer: Promise.resolve({
      decide: () => Promise.resolve({ allow: false, message: "" }),
      onMessage: () => undefined,
      onStderr: () => undefined,
    }),
  });
  await agent.ended;
  return (await readFile(found, "utf8")).split("\0").slice(0, -1);
}

/** @param kept of the agent whose conversation this one takes up again; by default it starts a new one. */
export async function spawnRawAgent(options: RawAgentOptions, args: readonly string[], kept?: Kept): Promise<RawAgent> {
  const home = kept?.home ?? (await mkdtemp(join(options.directory, "raw-")));
  await mkdir(join(home, "workspace"), { recursive: true });
  const child = spawn(options.claudePath, [...args, ...(kept ? ["--resume", kept.conversation] : [])], {
    cwd: join(home, "workspace"),
    env: {
      HOME: home,
      PATH: "/usr/local/bin:/usr/bin:/bin",
      LANG: "C.UTF-8",
      ANTHROPIC_BASE_URL: options.modelUrl,
      ANTHROPIC_API_KEY: options.key,
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
      DISABLE_AUTOUPDATER: "1",
    },
    stdio: ["pipe", "pipe", "ignore"],
  });
  return talkTo(child, home);
}

function talkTo(child: ChildProcess, home: string): RawAgent {
  const kept = { home, conversation: "" };
  const turns = createTurns((text) => {
    child.stdin?.write(
      `${JSON.stringify({ type: "user", message: { role: "user", content: [{ type: "text", text }] }, parent_tool_use_id: null, session_id: "" })}\n`,
    );
  });
  const exited = once(child, "exit");
  let rest = "";
  child.stdout?.setEncoding("utf8").on("data", (data: string) => {
    const seenAt = performance.now();
    const lines = (rest + data).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const message = JSON.parse(line) as { type: string; session_id?: string; event?: { type: string; delta?: { text?: string } } };
      kept.conversation = message.session_id ?? kept.conversation;
      if (message.event?.type === "content_block_delta") turns.seen(stampsIn(message.event.delta?.text ?? ""), seenAt);
      if (message.type === "result") turns.ended();
    }
  });
  child.on("exit", () => turns.failed(new Error("the agent ended in the middle of a turn")));
  return {
    pid: child.pid ?? 0,
    kept,
    turn: turns.turn,
    async close() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
