import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, onTestFinished, test } from "vitest";
import type { ScriptedModel } from "../../../demo/scripted-model/server.ts";
import { apiKey, startModel } from "./support.ts";

const platform = `claude-agent-sdk-${process.platform}-${process.arch}`;
const claude = new URL(`../../../node_modules/@anthropic-ai/${platform}/claude`, import.meta.url).pathname;

interface AgentMessage {
  type: string;
  subtype?: string;
  request_id?: string;
  request?: { subtype: string; tool_name: string; input: Record<string, unknown> };
  result?: string;
  is_error?: boolean;
  parent_tool_use_id?: string | null;
  [field: string]: unknown;
}

const streaming = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"];

/** The real agent program in a home and a folder of its own, ended with the test. */
async function spawnAgent(model: ScriptedModel): Promise<ChildProcess> {
  const home = await mkdtemp(join(tmpdir(), "scripted-model-"));
  const child = spawn(claude, [...streaming, "--permission-prompt-tool", "stdio", "--allowedTools", "Bash"], {
    cwd: home,
    env: {
      PATH: process.env.PATH ?? "",
      HOME: home,
      ANTHROPIC_BASE_URL: model.url,
      ANTHROPIC_API_KEY: apiKey,
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    },
    stdio: ["pipe", "pipe", "inherit"],
  });
  onTestFinished(async () => {
    child.kill("SIGKILL");
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    await rm(home, { recursive: true, force: true });
  });
  return child;
}

async function startAgent(model: ScriptedModel) {
  const child = await spawnAgent(model);
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  const seen: AgentMessage[] = [];
  const send = (message: object) => child.stdin?.write(`${JSON.stringify(message)}\n`);
  async function until(type: string): Promise<AgentMessage> {
    for (;;) {
      const line = await lines.next();
      if (line.done) throw new Error(`the agent ended before ${type}`);
      const message = JSON.parse(line.value) as AgentMessage;
      seen.push(message);
      if (message.type === type) return message;
    }
  }
  const prompt = (text: string) => send({ type: "user", message: { role: "user", content: [{ type: "text", text }] } });
  return {
    seen,
    send,
    until,
    prompt,
    ask: async (text: string) => {
      prompt(text);
      return (await until("result")).result;
    },
    allow: (asked: AgentMessage, updatedInput: object) =>
      send({
        type: "control_response",
        response: { subtype: "success", request_id: asked.request_id, response: { behavior: "allow", updatedInput } },
      }),
  };
}

const takes = "the real agent takes text, thinking, tools, sub-agents, questions and faults from the scripted model";

test.skipIf(!existsSync(claude))(
  takes,
  async () => {
    const model = await startModel();
    const agent = await startAgent(model);

    expect(await agent.ask("[[think I wonder.]][[text hello {{n}}]]")).toBe("hello 1");
    expect(JSON.stringify(agent.seen)).toContain("I wonder.");

    const both = '[[tool Bash {"command":"echo one"}]][[+tool Bash {"command":"echo two"}]]';
    expect(await agent.ask(`${both}[[text {{tool_result}} after {{earlier_answers}}]]`)).toBe('one\ntwo after "hello 1"');

    const inner = '[[tool Bash {"command":"echo deep"}]][[text saw {{tool_result}}]]';
    expect(await agent.ask(`[[subagent look ${inner}]][[text {{tool_result}}]]`)).toContain("saw deep");
    expect(agent.seen.some((message) => message.type === "assistant" && message.parent_tool_use_id)).toBe(true);

    agent.prompt("[[ask Which colour? | Red | Blue]][[text {{tool_result}}]]");
    const asked = await agent.until("control_request");
    expect(asked.request).toMatchObject({ subtype: "can_use_tool", tool_name: "AskUserQuestion" });
    agent.allow(asked, { ...asked.request?.input, answers: { "Which colour?": "Blue" } });
    expect((await agent.until("result")).result).toContain('"Which colour?"="Blue"');

    expect(await agent.ask("[[status 529 x1]][[text recovered]]")).toBe("recovered");
    expect(await agent.ask("[[text before]][[cut 2 x1]][[text and after]]")).toBe("and after");

    agent.send({ type: "control_request", request_id: "usage", request: { subtype: "get_context_usage" } });
    expect(await agent.until("control_response")).toMatchObject({ response: { subtype: "success" } });
    const paths = new Set(model.requests().map(({ method, path }) => `${method} ${path}`));
    expect([...paths].sort()).toEqual(["POST /v1/messages/count_tokens?beta=true", "POST /v1/messages?beta=true"]);
    expect(new Set(model.requests().map(({ status }) => status))).toEqual(new Set([200, 529]));
  },
  20_000,
);
