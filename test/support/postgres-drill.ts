/**
 * A program: start an embedded Postgres under a directory, kill it, recover it, and with `stop` end it, with `leave` go away
 * and leave it running. Prints one line of JSON. Tests run it as other users and as a control plane that is gone.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import pg from "pg";
import { startEmbeddedPostgres } from "../../server/db/embedded.ts";
import { silentLog } from "./postgres-server.ts";

const [directory = "", ending = "stop"] = process.argv.slice(2);
const dataDirectory = path.join(directory, "data");
const postgres = await startEmbeddedPostgres({ dataDirectory, socketDirectory: path.join(directory, "socket"), log: silentLog() });

async function query(text: string): Promise<unknown> {
  const client = new pg.Client(postgres.connectionConfig as pg.ClientConfig);
  await client.connect();
  try {
    return (await client.query({ text, rowMode: "array" })).rows;
  } finally {
    await client.end();
  }
}

const pid = (): number => Number(readFileSync(path.join(dataDirectory, "postmaster.pid"), "utf8").split("\n")[0]);

await query("create table if not exists kept (n int)");
await query("insert into kept values (1)");
const before = pid();
process.kill(before, "SIGKILL");
await postgres.ensureRunning();
process.stdout.write(`${JSON.stringify({ rows: await query("select n from kept"), recovered: pid() !== before })}\n`);
if (ending === "stop") await postgres.stop();
