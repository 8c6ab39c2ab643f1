// The command line against the whole of Carrel: the real app, the real agent in its sandbox, and a scripted model.
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { App } from "../../server/app.ts";
import { createInstallation, type Installation, plantedKey, startApp } from "../support/carrel.ts";
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

test("from signing in to deleting the record", { timeout: 120_000 }, async () => {
  const transcript = path.join(import.meta.dirname, "transcripts/real-session.txt");
  const { expected, actual } = await playTranscript(transcript, await personAtHome("cli@example.com"));
  expect(actual).toBe(expected);
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
