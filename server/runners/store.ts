import { type ExpressionBuilder, type Kysely, type NotNull, sql } from "kysely";
import type { Database } from "../db/database.ts";
import type { SessionRow } from "../journal/store.ts";

/** The session whose sandbox was started with this attach token. */
export async function findByAttachHash(db: Kysely<Database>, attachHash: Uint8Array): Promise<{ id: string } | undefined> {
  return db.selectFrom("session").select("id").where("attach_hash", "=", Buffer.from(attachHash)).executeTakeFirst();
}

export async function findByLeaseHash(
  db: Kysely<Database>,
  leaseHash: Uint8Array,
): Promise<{ id: string; epoch: number; box: string | null } | undefined> {
  return db.selectFrom("session").select(["id", "epoch", "box"]).where("lease_hash", "=", Buffer.from(leaseHash)).executeTakeFirst();
}

/** Whose last step did not fail, or long enough ago. */
const isToBeTried = (e: ExpressionBuilder<Database, "session">) =>
  e.or([e("retry_at", "is", null), e("retry_at", "<", sql<Date>`clock_timestamp()`)]);

/** Sessions that may need a step: on their way somewhere, wanted elsewhere, or without a living lease. */
export async function listDue(db: Kysely<Database>, host: string, idleMs: number): Promise<{ id: string }[]> {
  return (
    db
      .selectFrom("session")
      .select("id")
      .where("state", "<>", "ended")
      .where("desired", "<>", "erase")
      .where("host", "=", host)
      .where(isToBeTried)
      // Of who is parked only an end is due, and the sandbox of who sleeps.
      .where((e) =>
        e.or([
          e("parked_at", "is", null),
          e("desired", "=", "end"),
          e.and([e("state", "=", "dormant"), e("desired", "=", "hibernate")]),
          e("ends_at", "<", sql<Date>`clock_timestamp()`),
        ]),
      )
      .where((e) =>
        e.or([
          e("state", "not in", ["running", "dormant"]),
          e("desired", "=", "end"),
          e.and([e("state", "=", "dormant"), e.or([e("box", "is not", null), e("desired", "=", "run")])]),
          e.and([e("state", "=", "running"), e("desired", "=", "hibernate")]),
          e.and([
            e("state", "=", "running"),
            e.or([
              e.and([e("turn", "=", 0), e("pending_count", "=", 0), e("queued_prompts", "=", 0)]),
              e.and([e("turn", ">", 0), e("pending_count", ">", 0)]),
            ]),
            e("active_at", "<", sql<Date>`clock_timestamp() - make_interval(secs => ${idleMs / 1000})`),
          ]),
          e("lease_until", "<", sql<Date>`clock_timestamp()`),
          // Something failed that is over, perhaps: then it is forgotten.
          e.and([e("retry_at", "is not", null), e("parked_at", "is", null)]),
          e("ends_at", "<", sql<Date>`clock_timestamp()`),
        ]),
      )
      .orderBy("id")
      .execute()
  );
}

/** The next `most` sessions to be erased now: those that still do something, then the oldest. */
export async function listDoomed(db: Kysely<Database>, host: string, most: number): Promise<{ id: string }[]> {
  return db
    .selectFrom("session")
    .select("id")
    .where("desired", "=", "erase")
    .where("host", "=", host)
    .where(isToBeTried)
    .orderBy((e) => e("state", "=", "ended"))
    .orderBy("created_at")
    .limit(most)
    .execute();
}

/** Sessions of this installation that run, with their boxes. */
export async function listRunning(db: Kysely<Database>, host: string): Promise<{ id: string; box: string }[]> {
  return db
    .selectFrom("session")
    .select(["id", "box"])
    .where("state", "=", "running")
    .where("host", "=", host)
    .where("box", "is not", null)
    .orderBy("id")
    .$narrowType<{ box: NotNull }>()
    .execute();
}

/** What a step is counted for. Whoever has changed it meanwhile is not counted against. */
type Tried = Pick<SessionRow, "id" | "failures" | "desired" | "parked_at">;

/** Writes down that a step failed, and when it is tried again; nothing when the session is no longer what it was. */
export async function recordSetback(db: Kysely<Database>, tried: Tried, failures: number, pauseMs: number): Promise<void> {
  await unchanged(db, tried)
    .set({
      failures,
      // That the database was away is no failure.
      failing_since: failures === 0 ? null : sql<Date>`coalesce(failing_since, clock_timestamp())`,
      retry_at: sql<Date>`clock_timestamp() + make_interval(secs => ${pauseMs / 1000})`,
    })
    .execute();
}

/** Parks a session to which nobody can say why: its log cannot be written. */
export async function parkSilently(db: Kysely<Database>, tried: Tried, failures: number): Promise<void> {
  await unchanged(db, tried).set({ failures, retry_at: null, parked_at: sql<Date>`clock_timestamp()` }).execute();
}

/** What failed before counts no longer: a step has been taken. */
export async function forgetSetbacks(db: Kysely<Database>, tried: Tried): Promise<void> {
  await unchanged(db, tried).set({ failures: 0, failing_since: null, retry_at: null }).execute();
}

/** Who was parked already is still to be ended and cleared. */
function unchanged(db: Kysely<Database>, { id, failures, desired, parked_at }: Tried) {
  const same = db.updateTable("session").where("id", "=", id).where("failures", "=", failures).where("desired", "=", desired);
  return same.where("parked_at", parked_at === null ? "is" : "is not", null);
}

/** The database's clock, milliseconds since 1970. */
export async function databaseNow(db: Kysely<Database>): Promise<number> {
  const { now } = await db.selectNoFrom(sql<Date>`clock_timestamp()`.as("now")).executeTakeFirstOrThrow();
  return now.getTime();
}

/** The session whose sandboxes a box holds. */
export async function findByBox(db: Kysely<Database>, box: string): Promise<SessionRow | undefined> {
  return db.selectFrom("session").selectAll().where("box", "=", box).executeTakeFirst();
}

/** What a follower of commands needs to know of the session. */
export async function findCommandState(
  db: Kysely<Database>,
  sessionId: string,
): Promise<Pick<SessionRow, "epoch" | "owner_id" | "last_command_id" | "state"> | undefined> {
  return db.selectFrom("session").select(["epoch", "owner_id", "last_command_id", "state"]).where("id", "=", sessionId).executeTakeFirst();
}

/** Sessions meant to run unattended in which something has waited for a person for longer than `timeoutMs`. */
export async function listUnanswered(db: Kysely<Database>, host: string, timeoutMs: number): Promise<{ id: string }[]> {
  return db
    .selectFrom("pause")
    .innerJoin("session", "session.id", "pause.session_id")
    .select("session.id")
    .distinct()
    .where("pause.outcome", "is", null)
    .where("pause.created_at", "<", sql<Date>`clock_timestamp() - make_interval(secs => ${timeoutMs / 1000})`)
    .where("session.one_shot", "=", true)
    .where("session.state", "in", ["running", "dormant"])
    .where("session.desired", "<>", "erase")
    .where("session.host", "=", host)
    .execute();
}
