// The command line against the whole of Carrel: the real app, the real agent in its sandbox, and a scripted model.
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, plantedKey, startApp } from "../support/carrel.ts";
import { clientsWith } from "../support/person.ts";
import { playTranscript, runCarrel, type TranscriptOptions } from "./cli-transcripts.ts";

let installation: Installation;
let app: App;

beforeAll(async () => {
  installation = await createInstallation();
  app = await startApp(installation);
});

afterAll(async () => {
  await app?.close();
  await installation?.remove();
});

async function personAtHome(email: string): Promise<TranscriptOptions> {
  const home = path.join(installation.directory, email);
  mkdirSync(home);
  return { url: app.url, home, names: { [await installation.tokenFor(email)]: "token", [plantedKey]: "key" } };
}

test.each([
  ["from signing in to deleting the record", "real-session"],
  ["profiles and their memory", "real-profiles"],
])("%s", { timeout: 120_000 }, async (_what, name) => {
  const transcript = path.join(import.meta.dirname, `transcripts/${name}.txt`);
  const { expected, actual } = await playTranscript(transcript, await personAtHome(`${name}@example.com`));
  expect(actual).toBe(expected);
});

test("the queue of a busy session is listed, and a prompt in it taken back", { timeout: 60_000 }, async () => {
  const person = await personAtHome("queue@example.com");
  const env = { CARREL_TOKEN: Object.keys(person.names ?? {})[0] ?? "" };
  const carrel = (...args: string[]) => runCarrel(args, "", { ...person, env });
  await runCarrel(["auth", "claude", "set-key", "--key-from-stdin"], plantedKey, { ...person, env });
  const { sessions, channel } = clientsWith(app.url, env.CARREL_TOKEN);
  const sessionId = (await sessions.createSession({ initialPrompt: '[[tool Bash {"command":"touch x"}]]' })).session!.id;
  await expect.poll(async () => (await channel.listPending({ sessionId })).approvals.length, { timeout: 20_000 }).toBe(1);
  const first = await channel.sendPrompt({ sessionId, text: "then this" });
  const second = await channel.sendPrompt({ sessionId, text: `and ${"x".repeat(100)}` });

  const listed = await carrel("session", "queue", "list", sessionId);
  expect(listed.stdout.split("\n").map((line) => line.replace(/\s+\S+Z\s+/, " "))).toEqual([
    "NUMBER  SENT                  PROMPT",
    `${first.seq} then this`,
    `${second.seq} and ${"x".repeat(76)}…`,
    "",
  ]);
  expect(await carrel("session", "queue", "cancel", sessionId, String(first.seq))).toEqual({
    stdout: "",
    stderr: `Prompt ${first.seq} will not begin\n`,
    exitCode: 0,
  });
  const json = JSON.parse((await carrel("session", "queue", "list", sessionId, "--json")).stdout) as { prompts: object[] };
  expect(json.prompts).toEqual([expect.objectContaining({ seq: second.seq, request_id: "" })]);
  expect(await carrel("session", "queue", "cancel", sessionId, "1", "--json")).toMatchObject({ exitCode: 1 });
  expect(await carrel("session", "queue", "cancel", sessionId, "0")).toMatchObject({ exitCode: 2 });
  const history = await carrel("session", "history", sessionId);
  expect(history.stdout).toContain(`prompt canceled: prompt ${first.seq} by queue@example.com`);
  await sessions.terminateSession({ sessionId });
});

test("Ctrl+C interrupts the real agent first and leaves second", { timeout: 60_000 }, async () => {
  const person = await personAtHome("interrupt@example.com");
  const env = { CARREL_TOKEN: Object.keys(person.names ?? {})[0] ?? "" };
  await runCarrel(["auth", "claude", "set-key", "--key-from-stdin"], plantedKey, { ...person, env });
  const root = path.join(import.meta.dirname, "../..");
  const chat = spawn(process.execPath, [path.join(root, "cli/main.ts"), "chat", "--approve", "all"], {
    env: { PATH: process.env["PATH"], HOME: person.home, CARREL_URL: person.url, ...env },
  });
  const ended = new Promise<number | null>((resolve) => chat.on("exit", resolve));
  let seen = "";
  for (const stream of [chat.stdout, chat.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (seen += text));
  const until = async (text: string) => expect.poll(() => seen, { timeout: 20_000, interval: 20 }).toContain(text);

  chat.stdin.write(`[[tool Bash {"command":"perl -e 'sleep 600'"}]]\n`);
  await until("approved Bash");
  chat.kill("SIGINT");
  await until("result interrupted");
  seen = "";
  chat.stdin.write(`[[tool Bash {"command":"perl -e 'sleep 600'"}]]\n`);
  await until("approved Bash");
  chat.kill("SIGINT");
  // Two signals at once would be one.
  await until("interrupting");
  chat.kill("SIGINT");
  expect(await ended).toBe(130);
  const sessionId = /left (ses_\w+)/.exec(seen)?.[1] ?? "";
  expect((await runCarrel(["session", "terminate", sessionId], "", { ...person, env })).exitCode).toBe(0);
});
