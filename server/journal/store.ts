import type { Insertable, Kysely, RawBuilder, Selectable, Transaction, Updateable } from "kysely";
import { sql } from "kysely";
import type { Database } from "../db/database.ts";
import { accountHeld } from "../db/lock-order.ts";
import type { PauseTable, SessionTable } from "./tables.ts";

export type SessionRow = Selectable<SessionTable>;
/** What changes see of a row: all but the first prompt, which may be large and never changes. */
export type SessionCore = Omit<SessionRow, "initial_prompt">;
/** A locked row, and the database's clock: deadlines and leases know no other. */
export type LockedSession = SessionCore & { locked_at: Date };
export type PauseRow = Selectable<PauseTable>;

/**
 * Every number of a log is given under this lock, or by a change that finds its row untouched (`writeChange`). A session that
 * is being erased is not there any more: whoever still has the key of its owner in memory could want it otherwise again.
 */
export async function lockSession(tx: Transaction<Database>, sessionId: string): Promise<LockedSession | undefined> {
  const now = sql<Date>`clock_timestamp()`.as("locked_at");
  const there = tx.selectFrom("session").selectAll().select(now).where("id", "=", sessionId).where("desired", "<>", "erase");
  return there.forUpdate().executeTakeFirst();
}

export async function findSession(db: Kysely<Database>, sessionId: string): Promise<SessionRow | undefined> {
  return db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirst();
}

export async function findOwnedSession(db: Kysely<Database>, ownerId: string, sessionId: string): Promise<SessionRow | undefined> {
  return db.selectFrom("session").selectAll().where("id", "=", sessionId).where("owner_id", "=", ownerId).executeTakeFirst();
}

/** An event as the table holds it. */
export type LoggedEvent = {
  seq: number;
  runnerSeq: number | null;
  turn: number;
  createdAtMs: number;
  payload: Uint8Array;
  chain: Uint8Array;
};

/** What a change writes of a session's row, to its log, and for its runner. */
export type SessionChange = {
  set: Updateable<SessionTable>;
  epoch: number;
  events: readonly LoggedEvent[];
  commands: readonly { id: number; payload: Uint8Array }[];
};

/** `version` is Postgres's own of the row (`xmin`): another transaction's update gives it another. */
export type Written = { version: string; at: Date };

/** What a change without the lock supposes of the row and of the database's clock, and what goes before it for the owner. */
export type Supposed = { version: string; now: Date; ownerId: string; before: readonly Preceding[] };

/**
 * A query that goes before a change in the statement of that change: a look, or a write of another table. It is made for each
 * row of `after`, which has one or none; where it returns none itself, what follows and the change are not made. Only the
 * first that writes may still find a reason against it: what was written before that would stay.
 */
export type Preceding = (after: RawBuilder<unknown>) => RawBuilder<unknown>;

/**
 * Writes a change in one statement. With what it supposes, only if that is so: undefined when somebody has changed the row,
 * or the clock is off by seconds, and nothing is written then. Without it the caller holds the lock.
 */
export async function writeChange(
  db: Kysely<Database>,
  sessionId: string,
  { set, epoch, events, commands }: SessionChange,
  supposed?: Supposed,
): Promise<Written | undefined> {
  const before = supposed && supposed.before.length > 0 ? precedence(sessionId, supposed) : undefined;
  const row = db
    .updateTable("session")
    .set(set)
    .where("id", "=", sessionId)
    .$if(supposed !== undefined, (update) => update.where(before ? sql<boolean>`exists (select from ${before.last})` : holds(supposed!)))
    .returning(["id", sql`xmin`.as("version"), sql`clock_timestamp()`.as("at")]);
  const parts = [...(before?.parts ?? []), sql`changed as (${row})`];
  if (events.length > 0) parts.push(sql`added as (${eventInsertion(epoch, events)})`);
  if (commands.length > 0) parts.push(sql`asked as (${commandInsertion(commands)})`);
  const { rows } = await sql<Written>`with ${sql.join(parts)} select version, at from changed`.execute(db);
  return rows[0];
}

/**
 * The row is locked first, as it is under the lock, so that what precedes the change is made only with it; and before it the
 * account, to which that may refer. Each part is asked for by the next, which is what puts them in an order.
 */
function precedence(sessionId: string, supposed: Supposed) {
  let last = sql.raw("held");
  const parts = [
    sql`account as (${accountHeld(supposed.ownerId)})`,
    sql`held as (select from session where id = ${sessionId} and ${holds(supposed)} and exists (select from account) for no key update)`,
  ];
  for (const [index, preceding] of supposed.before.entries()) {
    const name = sql.raw(`before_${index}`);
    parts.push(sql`${name} as (${preceding(last)})`);
    last = name;
  }
  return { parts, last };
}

function holds({ version, now }: Supposed) {
  const little = sql`interval '5 seconds'`;
  return sql<boolean>`xmin = ${version}::xid and clock_timestamp() - ${now}::timestamptz between -${little} and ${little}`;
}

/**
 * Arrays instead of a row of parameters each: one prepared shape for every batch size, and no 65,535-parameter limit. Bytes
 * go as one parameter and are cut up there, because an array of them is written and read as text.
 */
function eventInsertion(epoch: number, events: readonly LoggedEvent[]) {
  const lengths = events.map(({ payload }) => payload.length);
  let end = 1;
  const starts = lengths.map((length) => (end += length) - length);
  return sql`insert into event (session_id, seq, epoch, runner_seq, turn, created_at, payload, chain)
    select changed.id, ${events[0]!.seq - 1} + place, ${epoch}, runner_seq, turn, to_timestamp(created_ms / 1000),
      substring(${Buffer.concat(events.map(({ payload }) => payload))}::bytea from start for length),
      substring(${Buffer.concat(events.map(({ chain }) => chain))}::bytea from 32 * place::int - 31 for 32)
    from changed, unnest(
      ${events.map(({ runnerSeq }) => runnerSeq)}::int[], ${events.map(({ turn }) => turn)}::int[],
      ${events.map(({ createdAtMs }) => createdAtMs)}::float8[], ${starts}::int[], ${lengths}::int[]
    ) with ordinality as one (runner_seq, turn, created_ms, start, length, place)`;
}

function commandInsertion(commands: SessionChange["commands"]) {
  return sql`insert into command (session_id, id, payload) select changed.id, one.id, one.payload
    from changed, unnest(${commands.map(({ id }) => id)}::int[], ${commands.map(({ payload }) => payload)}::bytea[]) as one (id, payload)`;
}

/** What one page of a log may hold, in sealed bytes; the first row always goes. A reader that stops reading holds one, opened and encoded. */
const pageBytes = 48 * 1024;

/** Rows of the log after `afterSeq`, oldest first: at most `limit`, and at most a page's bytes. Empty only at the end. */
export async function listEventRows(db: Kysely<Database>, sessionId: string, afterSeq: number, limit: number) {
  return pageOf(db, eventsAfter(db, sessionId, afterSeq), limit);
}

/** Rows of the prompts that wait, in the same pages. */
export async function listQueuedPromptRows(db: Kysely<Database>, sessionId: string, afterSeq: number, limit: number) {
  const waiting = db.selectFrom("queued_prompt").select("seq").where("session_id", "=", sessionId).where("canceled_seq", "is", null);
  return pageOf(db, eventsAfter(db, sessionId, afterSeq).where("seq", "in", waiting), limit);
}

function eventsAfter(db: Kysely<Database>, sessionId: string, afterSeq: number) {
  return db
    .selectFrom("event")
    .select(["session_id", "seq", "turn", "created_at", "payload"])
    .where("session_id", "=", sessionId)
    .where("seq", ">", afterSeq);
}

async function pageOf(db: Kysely<Database>, events: ReturnType<typeof eventsAfter>, limit: number) {
  // Limited before it is summed: a reader at the start of a long log must not weigh the whole of it for one page.
  const next = events.orderBy("seq").limit(limit).as("next");
  const before = sql<number>`sum(octet_length(payload)) over (order by seq) - octet_length(payload)`.as("bytes_before");
  return db
    .selectFrom(db.selectFrom(next).selectAll().select(before).as("page"))
    .select(["session_id", "seq", "turn", "created_at", "payload"])
    .where("bytes_before", "<", pageBytes)
    .orderBy("seq")
    .execute();
}

export async function listCommands(db: Kysely<Database>, sessionId: string, afterId: number) {
  return db
    .selectFrom("command")
    .select(["id", "payload"])
    .where("session_id", "=", sessionId)
    .where("id", ">", afterId)
    .orderBy("id")
    .limit(100)
    .execute();
}

export async function deleteCommands(tx: Transaction<Database>, sessionId: string, throughId: number): Promise<void> {
  await tx.deleteFrom("command").where("session_id", "=", sessionId).where("id", "<=", throughId).execute();
}

export async function queuePrompt(tx: Transaction<Database>, sessionId: string, seq: number): Promise<void> {
  await tx.insertInto("queued_prompt").values({ session_id: sessionId, seq, canceled_seq: null }).execute();
}

/** Takes the oldest queued prompt out of the queue; undefined when it is empty. */
export async function takeQueuedPrompt(tx: Transaction<Database>, sessionId: string): Promise<number | undefined> {
  const oldest = tx
    .selectFrom("queued_prompt")
    .select("seq")
    .where("session_id", "=", sessionId)
    .where("canceled_seq", "is", null)
    .orderBy("seq")
    .limit(1);
  const row = await tx
    .deleteFrom("queued_prompt")
    .where("session_id", "=", sessionId)
    .where("seq", "=", oldest)
    .returning("seq")
    .executeTakeFirst();
  return row?.seq;
}

/** How a prompt stands in the queue; undefined when it was never there, or began. */
export async function findQueuedPrompt(tx: Transaction<Database>, sessionId: string, seq: number) {
  return tx
    .selectFrom("queued_prompt")
    .select("canceled_seq")
    .where("session_id", "=", sessionId)
    .where("seq", "=", seq)
    .executeTakeFirst();
}

export async function cancelQueuedPrompt(tx: Transaction<Database>, sessionId: string, seq: number, canceledSeq: number): Promise<void> {
  await tx
    .updateTable("queued_prompt")
    .set({ canceled_seq: canceledSeq })
    .where("session_id", "=", sessionId)
    .where("seq", "=", seq)
    .execute();
}

export async function insertPause(tx: Transaction<Database>, pause: Insertable<PauseTable>): Promise<void> {
  await tx.insertInto("pause").values(pause).execute();
}

export async function findPause(db: Kysely<Database>, sessionId: string, id: string): Promise<PauseRow | undefined> {
  return db.selectFrom("pause").selectAll().where("session_id", "=", sessionId).where("id", "=", id).executeTakeFirst();
}

/** Answers which no agent has been told, each with the turn it was asked for in. */
export async function listCarriedPauses(tx: Transaction<Database>, sessionId: string): Promise<(PauseRow & { turn: number })[]> {
  return tx
    .selectFrom("pause")
    .innerJoin("event", (join) => join.onRef("event.session_id", "=", "pause.session_id").onRef("event.seq", "=", "pause.seq"))
    .selectAll("pause")
    .select("event.turn")
    .where("pause.session_id", "=", sessionId)
    .where("carried", "=", true)
    .orderBy("pause.seq")
    .execute();
}

export async function dropCarried(tx: Transaction<Database>, sessionId: string, id: string): Promise<void> {
  await tx.updateTable("pause").set({ carried: false }).where("session_id", "=", sessionId).where("id", "=", id).execute();
}

export async function listOpenPauses(db: Kysely<Database>, sessionId: string): Promise<PauseRow[]> {
  return db.selectFrom("pause").selectAll().where("session_id", "=", sessionId).where("outcome", "is", null).orderBy("seq").execute();
}

export type PauseClosing = Pick<PauseRow, "outcome" | "answered_by" | "carried"> & {
  decision: Uint8Array | null;
  answer: Uint8Array | null;
};

/** Closes one open pause; false when somebody was first. */
export async function closePause(tx: Transaction<Database>, sessionId: string, id: string, closing: PauseClosing): Promise<boolean> {
  const result = await tx
    .updateTable("pause")
    .set(closing)
    .where("session_id", "=", sessionId)
    .where("id", "=", id)
    .where("outcome", "is", null)
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** What an ended session no longer needs. */
export async function clearQueues(tx: Transaction<Database>, sessionId: string): Promise<void> {
  await tx.deleteFrom("command").where("session_id", "=", sessionId).execute();
  await tx.deleteFrom("queued_prompt").where("session_id", "=", sessionId).execute();
}
