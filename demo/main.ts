/**
 * `npm run demo`: a whole Carrel whose model is a script, so that a newcomer sees a session without a key.
 *
 * The data is its own (.carrel-demo), never that of `npm start`, because a key that no provider knows is stored in it.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { SessionStatus } from "../gen/carrel/v1/session_pb.ts";
import { type Carrel, createCarrel } from "../sdk/node.ts";
import { type App, createApp } from "../server/app.ts";
import { ConfigError, readConfig } from "../server/config.ts";
import { createLog } from "../server/log.ts";
import { parseScript } from "./scripted-model/script.ts";
import { createScriptedModel, type ScriptedModel } from "./scripted-model/server.ts";

const root = path.dirname(import.meta.dirname);
const demoKey = "sk-ant-demo-accepted-by-the-script-only";
const exitConfiguration = 78;
const endingMs = 10_000;

/** What of the person's own settings a demo obeys. Their database, keys, issuers and provider are none of its business. */
const obeyed = [
  "CARREL_PORT",
  "CARREL_HOST",
  "CARREL_SANDBOX",
  "CARREL_CLAUDE_PATH",
  "CARREL_SANDBOX_MEMORY_BYTES",
  "CARREL_SANDBOX_CPUS",
  "CARREL_LOG_LEVEL",
];

type Closers = (() => Promise<void> | void)[];

async function main(closers: Closers): Promise<void> {
  const script = parseScript(readFileSync(path.join(root, "demo/scripts/demo.yaml"), "utf8"));
  const model = await createScriptedModel({ apiKeys: [demoKey], script });
  closers.push(model.close);
  const app = await startCarrel(model);
  closers.push(app.close);
  const token = await app.issuer.issueToken({ email: "demo@localhost.localdomain", ttlMs: 12 * 3_600_000, operator: false });
  const carrel = createCarrel({ baseUrl: app.url, token });
  closers.push(carrel.close);
  await carrel.registration.register({});
  await carrel.credentials.setApiKey({ apiKey: demoKey });
  closers.push(() => endSessions(carrel));
  tell(app, token);
}

async function startCarrel(model: ScriptedModel): Promise<App> {
  const config = readConfig({
    CARREL_LOG_LEVEL: "warn",
    ...Object.fromEntries(obeyed.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : []))),
    CARREL_DATA_DIR: path.join(root, ".carrel-demo"),
    CARREL_ANTHROPIC_BASE_URL: model.url,
    CARREL_DEMO: "true",
  });
  return createApp(config, createLog(config.logLevel));
}

function tell({ url, sandboxGaps }: App, token: string): void {
  const lines = [
    `Carrel is ready at ${url} (demo)`,
    "This is a demo: the answers come from a script, not from a model. The agent, its sandbox, the approvals and the log are real.",
    ...(sandboxGaps ? [`Not enforced on this machine: ${sandboxGaps}`] : []),
    "The demo user is registered and has a key that only the script accepts. In a second terminal:",
    "",
    "  sign in as the demo user",
    `    npm run carrel -- login '${url}/#token=${token}'`,
    "  a session: an answer, a command, your approval",
    '    npm run carrel -- chat "hello"',
    "  one to interrupt with Ctrl+C",
    '    npm run carrel -- chat "tell me a slow story"',
    "  one that asks you back",
    '    npm run carrel -- chat "ask me a question"',
    "  one that hands work to a sub-agent",
    '    npm run carrel -- chat "use a sub-agent"',
    "  what the demo has run so far",
    "    npm run carrel -- session list",
    "",
    "Ctrl+C ends the demo with its sessions; their records stay in .carrel-demo, which may be deleted.",
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}

/** A demo leaves nothing running; `npm start` would let its sandboxes live on for the next start. */
async function endSessions(carrel: Carrel): Promise<void> {
  const deadline = performance.now() + endingMs;
  for (const sessionId of await aliveSessions(carrel)) await carrel.sessions.terminateSession({ sessionId });
  while ((await aliveSessions(carrel)).length > 0 && performance.now() < deadline) await setTimeout(100);
}

async function aliveSessions(carrel: Carrel): Promise<string[]> {
  const ids: string[] = [];
  for await (const session of carrel.allSessions()) if (session.status !== SessionStatus.ENDED) ids.push(session.id);
  return ids;
}

/** Last opened, first closed; each is given its chance. */
async function closeAll(closers: Closers): Promise<void> {
  for (const close of closers.splice(0).reverse()) {
    try {
      await close();
    } catch (error) {
      process.exitCode = 1;
      process.stderr.write(`carrel demo: did not stop in order: ${String(error)}\n`);
    }
  }
}

function stopOnSignal(closers: Closers): void {
  let stopping: Promise<void> | undefined;
  const stop = (): void => {
    if (stopping === undefined) process.stdout.write("\nThe demo is stopping.\n");
    stopping ??= closeAll(closers).then(() => process.exit());
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
}

const closers: Closers = [];
try {
  await main(closers);
  stopOnSignal(closers);
} catch (error) {
  await closeAll(closers);
  const problems = error instanceof ConfigError ? error.problems : [error instanceof Error ? error.message : String(error)];
  for (const problem of problems) process.stderr.write(`carrel demo: ${problem}\n`);
  process.exit(error instanceof ConfigError ? exitConfiguration : 1);
}
