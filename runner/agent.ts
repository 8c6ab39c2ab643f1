import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type McpServerConfig,
  type PermissionResult,
  type Query,
  query,
  type SDKMessage,
  type SDKUserMessage,
  type SpawnOptions,
} from "@anthropic-ai/claude-agent-sdk/core";
import type { JsonObject } from "@bufbuild/protobuf";

/** One tool call before it runs. `agentId` names the sub-agent that makes it. */
export type ToolCall = { toolUseId: string; toolName: string; input: JsonObject; agentId: string | undefined; signal: AbortSignal };
export type Decision = { allow: boolean; updatedInput?: JsonObject; message: string };

export type AgentOptions = {
  claudePath: string;
  cwd: string;
  model: string;
  planMode: boolean;
  environment: Record<string, string>;
  mcpServers: Record<string, McpServerConfig>;
  /** The conversation to take up again; empty starts a new one. */
  resume: string;
  /** May come later than the agent starts; until then it is waited for, and nothing is lost. */
  observer: Promise<AgentObserver>;
};

/** Who decides on the agent's calls and is told what it says, in order. */
export type AgentObserver = {
  decide(call: ToolCall): Promise<Decision>;
  onMessage(message: SDKMessage): void;
  onStderr(text: string): void;
};

/** The `claude` program behind the few things Carrel needs of it. One process, one conversation, many turns. */
export type Agent = {
  prompt(text: string): void;
  /** Sets what the agent was not started with. */
  configure(settings: { model: string; planMode: boolean }): Promise<void>;
  interrupt(): Promise<void>;
  /** Resolves when it takes prompts; never, when it ends before that. */
  ready: Promise<void>;
  /** Resolves when nothing more comes from it; with the error it went by, if any. */
  ended: Promise<Error | undefined>;
  /** Resolves when the process is gone, and what it said last is heard. */
  gone(): Promise<void>;
  /** Ends the process, from which nothing is heard any more. Asked to leave in the middle of a turn, it would go on with the turn first. */
  stop(how: "asked" | "killed"): void;
};

const questionTool = "AskUserQuestion";
const lastWordsMs = 200;
/** Hooks are answered at once: they only send every call to `decide`, which may take days. */
const hookSeconds = 60;

export function startAgent(options: AgentOptions): Agent {
  const { observer } = options;
  const prompts = createPromptQueue();
  const stopping = new AbortController();
  const program = createProgram();
  const session: Query = query({
    prompt: prompts.messages(),
    options: {
      pathToClaudeCodeExecutable: options.claudePath,
      cwd: options.cwd,
      env: options.environment,
      abortController: stopping,
      // Nothing in the workspace or the home configures the agent: not settings, not hooks, not MCP servers.
      settingSources: [],
      strictMcpConfig: true,
      mcpServers: options.mcpServers,
      permissionMode: options.planMode ? "plan" : "default",
      includePartialMessages: true,
      ...(options.model ? { model: options.model } : {}),
      ...(options.resume ? { resume: options.resume } : {}),
      spawnClaudeCodeProcess: (spawning) => program.start(spawning, (text) => void observer.then(({ onStderr }) => onStderr(text))),
      // The agent would let some calls pass by itself; asking is forced for every one, those of sub-agents included.
      hooks: { PreToolUse: [{ timeout: hookSeconds, hooks: [() => Promise.resolve(ask)] }] },
      canUseTool: (toolName, input, { signal, toolUseID, agentID }) =>
        observer
          .then(({ decide }) => decide({ toolUseId: toolUseID, toolName, input: input as JsonObject, agentId: agentID, signal }))
          .then((decision) => permission(toolName, input, decision)),
    },
  });
  return {
    prompt: prompts.add,
    async configure({ model, planMode }) {
      if (model !== options.model) await session.setModel(model || undefined);
      if (planMode !== options.planMode) await session.setPermissionMode(planMode ? "plan" : "default");
    },
    interrupt: async () => void (await session.interrupt()),
    ready: readiness(session),
    ended: consume(session, observer, stopping.signal),
    gone: program.gone,
    stop(how) {
      if (how === "killed") program.kill();
      prompts.end();
      stopping.abort();
    },
  };
}

/** What an agent dies of is told by `ended`. */
function readiness(session: Query): Promise<void> {
  return new Promise((resolve) =>
    session.initializationResult().then(
      () => resolve(),
      () => undefined,
    ),
  );
}

const ask = { hookSpecificOutput: { hookEventName: "PreToolUse" as const, permissionDecision: "ask" as const } };

function permission(toolName: string, input: Record<string, unknown>, decision: Decision): PermissionResult {
  if (!decision.allow) return { behavior: "deny", message: decision.message };
  // An answered question is the agent's own input with the answers added; an edited call replaces its input.
  const updated = toolName === questionTool ? { ...input, ...decision.updatedInput } : (decision.updatedInput ?? input);
  return { behavior: "allow", updatedInput: updated };
}

/** What an agent says of being stopped, the end of a turn that only waited for a person among it, is nobody's news. */
async function consume(session: Query, observer: Promise<AgentObserver>, stopping: AbortSignal): Promise<Error | undefined> {
  const { onMessage } = await observer;
  try {
    for await (const message of session) if (!stopping.aborted) onMessage(message);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** The process itself: started when the SDK wants it. */
function createProgram() {
  let child: ChildProcessWithoutNullStreams | undefined;
  return {
    start({ command, args, cwd, env, signal }: SpawnOptions, onStderr: (text: string) => void): ChildProcessWithoutNullStreams {
      child = spawn(command, args, { ...(cwd ? { cwd } : {}), env, signal });
      child.stderr.setEncoding("utf8").on("data", onStderr);
      return child;
    },
    kill: () => void child?.kill("SIGKILL"),
    /** Resolves when it has left, and what it said last is heard; what it left running may hold its streams open. */
    async gone(): Promise<void> {
      if (!child?.pid) return;
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
      if (!child.stderr.closed) await Promise.race([once(child.stderr, "close"), sleep(lastWordsMs, undefined, { ref: false })]);
    },
  };
}

function createPromptQueue() {
  const waiting: string[] = [];
  let wake = (): void => undefined;
  let ended = false;
  async function* messages(): AsyncGenerator<SDKUserMessage> {
    for (;;) {
      const text = waiting.shift();
      if (text !== undefined) {
        yield { type: "user", message: { role: "user", content: [{ type: "text", text }] }, parent_tool_use_id: null, session_id: "" };
        continue;
      }
      if (ended) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
  return {
    messages,
    add(text: string): void {
      waiting.push(text);
      wake();
    },
    end(): void {
      ended = true;
      wake();
    },
  };
}
