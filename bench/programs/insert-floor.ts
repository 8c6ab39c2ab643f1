// The floor of an append: the same batch, inserted by plain statements that each commit.
import { randomBytes } from "node:crypto";
import pg from "pg";
import { answerParent, settingsOfProgram } from "../support/program.ts";

type Question = { forMs: number; connections: number; batchEvents: number; payloadBytes: number };

const database = settingsOfProgram<pg.ClientConfig>();
const pool = new pg.Pool({ ...database, max: 64 });
await pool.query("create table if not exists bench_event (session_id text, seq int, payload bytea, primary key (session_id, seq))");
let session = 0;

answerParent<Question>(
  undefined,
  async (question) => {
    const ends = performance.now() + question.forMs;
    const started = performance.now();
    const counts = await Promise.all(Array.from({ length: question.connections }, () => insertUntil(ends, question)));
    return { perSecond: counts.reduce((sum, count) => sum + count, 0) / ((performance.now() - started) / 1_000) };
  },
  () => pool.end(),
);

async function insertUntil(ends: number, { batchEvents, payloadBytes }: Question): Promise<number> {
  session += 1;
  const sessionId = `session-${session}`;
  const client = await pool.connect();
  const payloads = Array.from({ length: batchEvents }, () => randomBytes(payloadBytes));
  let seq = 0;
  while (performance.now() < ends) {
    const first = seq;
    const seqs = payloads.map((_, index) => first + index);
    await client.query("insert into bench_event select $1, * from unnest($2::int[], $3::bytea[])", [sessionId, seqs, payloads]);
    seq += batchEvents;
  }
  client.release();
  return seq;
}
