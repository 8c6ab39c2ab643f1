// The program inside the sandbox: takes its orders from standard input, attaches, and drives one agent until told to leave.
import { text } from "node:stream/consumers";
import type { Command, ToolDecision } from "../gen/carrel/runner/v1/command_pb.ts";
import { type Agent, type Decision, startAgent, type ToolCall } from "./agent.ts";
import { type Channel, Fenced, openChannel } from "./channel.ts";
import { forwardLoopback } from "./forward.ts";
import { createTranslator } from "./translate.ts";

type Boot = {
  attachToken: string;
  phantomToken: string;
  socket: string;
  claude: string;
  cwd: string;
  resume: string;
  model: string;
  planMode: boolean;
};

/** Crashes of the agent in a row, without a finished turn between them, after which the session has failed. */
const mostCrashes = 3;

async function run(boot: Boot): Promise<number> {
  const forward = await forwardLoopback(boot.socket);
  // The agent starts while the runner attaches, which may take until somebody wants this sandbox.
  const driver = createDriver(boot, forward.url);
  const channel = await openChannel(boot.socket, boot.attachToken);
  await driver.serve(channel);
  channel.follow(driver.onCommand).catch((error: unknown) => leave(error));
  const exit = await driver.ended;
  await channel.detach(exit.reason, exit.code);
  return exit.code;
}

type Exit = { reason: string; code: number };

function createDriver(boot: Boot, modelUrl: string) {
  const attached = Promise.withResolvers<Channel>();
  let channel: Channel | undefined;
  let settings = { model: boot.model, planMode: boot.planMode };
  const decisions = new Map<string, (decision: Decision) => void>();
  const early = new Map<string, Decision>();
  const { promise: ended, resolve: end } = Promise.withResolvers<Exit>();
  let conversation = boot.resume;
  let turn = 0;
  let interrupted = false;
  let crashes = 0;
  let stderrTail = "";
  const translator = createTranslator(() => interrupted);

  const decide = async (call: ToolCall): Promise<Decision> => {
    const live = await attached.promise;
    // The call itself is in the log before anybody is asked about it.
    await live.flushed();
    const { toolUseId, toolName, input } = call;
    const answer = await live.decide({ toolUseId, toolName, input, parentToolUseId: translator.parentOf(call.agentId) });
    if (answer.decision) return decisionOf(answer.decision);
    const known = early.get(toolUseId);
    if (known) return known;
    return new Promise((resolve, reject) => {
      decisions.set(toolUseId, resolve);
      call.signal.addEventListener("abort", () => reject(new Error("the tool call was given up")), { once: true });
    });
  };

  const start = (): Agent => {
    const agent = startAgent({
      claudePath: boot.claude,
      cwd: boot.cwd,
      ...settings,
      environment: agentEnvironment(modelUrl, boot.phantomToken),
      resume: conversation,
      decide,
      onStderr(data) {
        stderrTail = (stderrTail + data).slice(-4000);
        process.stderr.write(data);
      },
      onMessage(message) {
        const translated = translator.translate(message);
        if (translated.delta) channel?.pushDelta(translated.delta);
        for (const event of translated.events) if (event.case === "sdkSessionId") conversation = event.value.id ?? conversation;
        if (translated.turnEnded) finishTurn();
        channel?.append(translated.events);
      },
    });
    void agent.ended.then((error) => onAgentEnded(agent, error));
    return agent;
  };

  const finishTurn = (): void => {
    turn = 0;
    interrupted = false;
    crashes = 0;
  };

  /** The process is gone: a turn it was in has failed; the next prompt starts another one in the same conversation. */
  const onAgentEnded = (gone: Agent, error: Error | undefined): void => {
    if (current !== gone) return;
    current = undefined;
    if (turn === 0) return;
    crashes += 1;
    const details = [error?.message, stderrTail.trim()].filter(Boolean).join("\n");
    channel?.append([
      { case: "sessionError", value: { error: "agent_crashed", details } },
      { case: "result", value: { success: false, subtype: "agent_crashed", summary: error?.message ?? "the agent left in the middle of a turn" } },
    ]);
    turn = 0;
    if (crashes >= mostCrashes) end({ reason: `the agent crashed ${crashes} times in a row\n${details}`, code: 1 });
  };

  // Started before the first prompt comes, so that it is ready by then.
  let current: Agent | undefined = start();

  const onCommand = ({ kind }: Command): void => {
    switch (kind.case) {
      case "prompt":
        turn = kind.value.seq;
        interrupted = false;
        stderrTail = "";
        current ??= start();
        current.prompt(kind.value.text);
        break;
      case "interrupt":
        if (turn !== kind.value.turn) break;
        interrupted = true;
        current?.interrupt().catch((error: Error) => process.stderr.write(`runner: interrupt failed: ${error.message}\n`));
        break;
      case "toolDecision": {
        const decision = decisionOf(kind.value);
        const waiting = decisions.get(kind.value.toolUseId);
        decisions.delete(kind.value.toolUseId);
        if (waiting) waiting(decision);
        else early.set(kind.value.toolUseId, decision);
        break;
      }
      case "terminate": {
        const agent = current;
        current = undefined;
        agent?.stop();
        end({ reason: "asked to leave", code: 0 });
        break;
      }
    }
  };
  /** Hands over the live channel. What the session wants of the agent is set before its first prompt. */
  const serve = async (live: Channel): Promise<void> => {
    const { model = "", planMode = false } = live.attached.manifest ?? {};
    settings = { model, planMode };
    channel = live;
    attached.resolve(live);
    await current?.configure(settings);
  };
  return { onCommand, ended, serve };
}

function decisionOf(decision: ToolDecision): Decision {
  return { allow: decision.allow, message: decision.message, ...(decision.updatedInput ? { updatedInput: decision.updatedInput } : {}) };
}

/** The whole environment of the agent. The token in it opens the model gateway of this sandbox and nothing else. */
function agentEnvironment(modelUrl: string, phantomToken: string): Record<string, string> {
  return {
    HOME: process.env["HOME"] ?? "/home/agent",
    PATH: process.env["PATH"] ?? "/usr/bin:/bin",
    LANG: "C.UTF-8",
    ANTHROPIC_BASE_URL: modelUrl,
    ANTHROPIC_API_KEY: phantomToken,
    // The one switch that silences every call home: telemetry, updates, feature flags.
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    DISABLE_AUTOUPDATER: "1",
  };
}

function leave(error: unknown): never {
  process.stderr.write(`runner: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exit(error instanceof Fenced ? 0 : 1);
}

try {
  process.exit(await run(JSON.parse(await text(process.stdin)) as Boot));
} catch (error) {
  leave(error);
}
