import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connectDatabase, type DatabaseConnection } from "../../server/db/connect.ts";
import { createInstallation, type Installation, plantedKey } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { type Person, signUp } from "../support/person.ts";
import { findBelow, findIn } from "../support/plaintext.ts";
import { silentLog } from "../support/postgres-server.ts";
import { destroySandboxes, placesOf, processOf } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";
import { ofKind, watch } from "../support/watcher.ts";

const marks = {
  key: plantedKey,
  initial: "initial-prompt-hx61-turmeric",
  prompt: "second-prompt-pq27-cardamom",
  // Computed by the tool, so that it is in no prompt.
  answer: "answer-11111-kx83-saffron",
  denial: "denied-because-vb90-nutmeg",
};
/** Names of sessions are kept in clear; this one shows that the search finds what is there. */
const control = { name: "plain-name-zt44-control" };

let installation: Installation;
let keeper: Keeper;
let person: Person;
let database: DatabaseConnection;

beforeAll(async () => {
  // Small, because the files that hold workspace and home are read as a whole.
  const small = { CARREL_LIMIT_WORKSPACE_BYTES: "67108864", CARREL_LIMIT_HOME_BYTES: "67108864" };
  installation = await createInstallation({ ...unlimited, ...small, DATABASE_URL: "", CARREL_LOG_LEVEL: "debug" });
  keeper = await keepServer(installation);
  person = await signUp(installation, keeper.url, "plain@example.com");
  database = connectDatabase({
    connection: { host: join(placesOf(installation).run, "pg"), port: 5432, user: "carrel", database: "carrel" },
    poolSize: 1,
    log: silentLog(),
  });
});
afterAll(async () => {
  await database?.close();
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

/** Every row of every table, as text and as the bytes in it. */
async function dump(): Promise<Buffer> {
  const { rows: tables } = await sql<{
    name: string;
  }>`select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`.execute(
    database.db,
  );
  expect(tables.length).toBeGreaterThan(8);
  const parts: Buffer[] = [];
  for (const { name } of tables) {
    const { rows } = await sql<Record<string, unknown>>`select * from ${sql.raw(name)}`.execute(database.db);
    for (const row of rows) {
      parts.push(Buffer.from(JSON.stringify(row)));
      for (const value of Object.values(row)) if (Buffer.isBuffer(value)) parts.push(value);
    }
  }
  return Buffer.concat(parts);
}

test("no key, prompt, answer or token is readable in the database, its files, the data directory or the log, during a session and after it", async () => {
  const { session } = await person.sessions.createSession({ name: control.name, initialPrompt: `[[text begun]] ${marks.initial}` });
  const sessionId = session!.id;
  const watcher = watch(person, sessionId);
  await watcher.untilKind("result");
  const command = `echo answer-$((41*271))-kx83-saffron`;
  await person.channel.sendPrompt({
    sessionId,
    text: `[[tool Bash {"command":"${command}"}]] [[tool Bash {"command":"echo never"}]] [[text I saw {{tool_result}}]] ${marks.prompt}`,
  });
  const first = await watcher.untilKind("toolApprovalRequest");
  await person.channel.answerApproval({ sessionId, toolUseId: first.toolUseId, approved: true });
  const second = await watcher.untilKind("toolApprovalRequest", ({ toolUseId }) => toolUseId !== first.toolUseId);
  await keeper.restart("SIGKILL");
  await person.channel.answerApproval({ sessionId, toolUseId: second.toolUseId, approved: false, message: marks.denial });
  await watcher.untilKind("result", () => true, 20_000, watcher.events.findIndex(({ payload }) => payload?.kind.case === "result") + 1);
  expect(JSON.stringify(ofKind(watcher.events, "toolResult").map(({ content }) => content))).toContain(marks.answer);

  const environment = readFileSync(
    `/proc/${await processOf({ ...installation, database: { ...installation.database, db: database.db } }, sessionId, "claude")}/environ`,
    "latin1",
  );
  const phantom = /ANTHROPIC_API_KEY=([^\0]+)/.exec(environment)![1]!;
  const all = { ...marks, phantom, token: person.token.slice(-60) };
  const { data, run } = placesOf(installation);

  // What the agent has written may still be on its way into those files.
  execFileSync("sync");
  await search(all, [run]);
  // What is readable is the living agent's own record of the conversation, in the memory-backed directory and only there.
  const live = findBelow(run, marks, [join(run, "pg")]).hits;
  expect(new Set(live.map(({ what }) => what))).toEqual(new Set(["initial", "prompt", "answer", "denial"]));

  await person.sessions.terminateSession({ sessionId });
  await watcher.ended();
  await search(all, []);
  expect(findBelow(data, control).hits.length).toBeGreaterThan(0);
}, 90_000);

async function search(marked: Record<string, string>, skip: string[]): Promise<void> {
  await sql`checkpoint`.execute(database.db);
  const rows = await dump();
  expect(findIn(rows, "the database", marked)).toEqual([]);
  expect(findIn(rows, "the database", control)).not.toEqual([]);
  const files = findBelow(installation.directory, marked, skip);
  expect(files.hits).toEqual([]);
  expect(files.files).toBeGreaterThan(500);
  expect(files.bytes).toBeGreaterThan(20e6);
  expect(readFileSync(join(installation.directory, "server.log"), "utf8")).toContain("call ended");
}
