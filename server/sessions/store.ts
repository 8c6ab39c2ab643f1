import type { Kysely, Transaction } from "kysely";
import { sql } from "kysely";
import { SessionStatus } from "../../gen/carrel/v1/session_pb.ts";
import type { Database } from "../db/database.ts";
import { gather } from "../db/gather.ts";
import { emptyChain } from "../journal/seal.ts";
import type { LockedSession, SessionRow } from "../journal/store.ts";
import { noUsage } from "../journal/tables.ts";

/** Serialises what counts against the owner's caps. */
export async function lockOwner(tx: Transaction<Database>, ownerId: string): Promise<void> {
  // Nothing begins for an account that was closed meanwhile.
  const open = tx.selectFrom("app_user").select("id").where("id", "=", ownerId).where("deregistered_at", "is", null);
  await open.forNoKeyUpdate().executeTakeFirstOrThrow();
}

export async function countAlive(tx: Transaction<Database>, ownerId: string): Promise<number> {
  const row = await tx
    .selectFrom("session")
    .select((expression) => expression.fn.countAll<number>().as("count"))
    .where("owner_id", "=", ownerId)
    .where("state", "<>", "ended")
    .executeTakeFirstOrThrow();
  return Number(row.count);
}

export type NewSession = {
  id: string;
  ownerId: string;
  name: string;
  model: string;
  permissionMode: string;
  allowedTools: string[];
  deniedTools: string[];
  initialPrompt: Uint8Array | null;
  profileId: string;
  host: string;
  settings: Uint8Array | null;
  allowedHosts: string[];
  maxTurns: number | null;
  maxBudgetMicros: number | null;
  oneShot: boolean;
  ttlSeconds: number | null;
};

export async function insertSession(tx: Transaction<Database>, session: NewSession): Promise<SessionRow & LockedSession> {
  return tx
    .insertInto("session")
    .values({
      id: session.id,
      owner_id: session.ownerId,
      name: session.name,
      state: "requested",
      desired: "run",
      chain: emptyChain,
      model: session.model,
      permission_mode: session.permissionMode,
      allowed_tools: session.allowedTools,
      denied_tools: session.deniedTools,
      initial_prompt: session.initialPrompt,
      profile_id: session.profileId,
      host: session.host,
      settings: session.settings,
      allowed_hosts: session.allowedHosts,
      max_turns: session.maxTurns,
      max_budget_micros: session.maxBudgetMicros,
      one_shot: session.oneShot,
      ttl_seconds: session.ttlSeconds,
      ends_at: session.ttlSeconds === null ? null : sql<Date>`clock_timestamp() + make_interval(secs => ${session.ttlSeconds})`,
      usage: JSON.stringify(noUsage),
      turn_usage: JSON.stringify(noUsage),
    })
    .returningAll()
    .returning(sql<Date>`clock_timestamp()`.as("locked_at"))
    .executeTakeFirstOrThrow();
}

/** What of a row its owner is shown, directly or by what is derived from it: little more than half of it. */
const shownColumns = [
  "id",
  "owner_id",
  "name",
  "state",
  "pending_count",
  "turn",
  "queued_prompts",
  "created_at",
  "started_at",
  "terminated_at",
  "end_reason",
  "exit_code",
  "error_message",
  "model",
  "permission_mode",
  "allowed_tools",
  "denied_tools",
  "initial_prompt",
  "usage",
  "num_turns",
  "last_seq",
  "profile_id",
  "settings",
  "allowed_hosts",
  "max_turns",
  "max_budget_micros",
  "one_shot",
  "ttl_seconds",
  "restoring",
  "parked_at",
  "start_marks",
  "snapshot_at",
  "forked_from",
  "forked_at_seq",
] as const satisfies readonly (keyof SessionRow)[];

export type ShownSession = Pick<SessionRow, (typeof shownColumns)[number]>;

/** Looks for a session of its owner, many in one statement. */
export function createShownSessions(db: Kysely<Database>) {
  const keyOf = (session: Pick<SessionRow, "id" | "owner_id">) => `${session.owner_id}/${session.id}`;
  const find = gather(keyOf, async (asked) => {
    const [ids, owners] = [asked.map(({ id }) => id), asked.map(({ owner_id }) => owner_id)];
    const rows = await db
      .selectFrom("session")
      .select(shownColumns)
      .where(sql<boolean>`(id, owner_id) in (select * from unnest(${ids}::text[], ${owners}::uuid[]))`)
      .execute();
    return new Map(rows.map((row) => [keyOf(row), row as ShownSession]));
  });
  return (ownerId: string, sessionId: string): Promise<ShownSession | undefined> => find({ id: sessionId, owner_id: ownerId });
}

export async function listSessions(
  db: Kysely<Database>,
  ownerId: string,
  status: SessionStatus,
  beforeId: string | undefined,
  limit: number,
): Promise<ShownSession[]> {
  let query = db.selectFrom("session").select(shownColumns).where("owner_id", "=", ownerId).orderBy("id", "desc").limit(limit);
  if (beforeId) query = query.where("id", "<", beforeId);
  if (status === SessionStatus.ENDED) query = query.where("state", "=", "ended");
  if (status === SessionStatus.STARTING) query = query.where("state", "in", ["requested", "starting"]).where("started_at", "is", null);
  if (status === SessionStatus.RUNNING) {
    query = query
      .where("state", "<>", "ended")
      .where((e) => e.or([e("started_at", "is not", null), e("state", "in", ["running", "hibernating", "dormant", "ending"])]));
  }
  return query.execute();
}

export async function listAliveOf(db: Kysely<Database>, ownerId: string): Promise<ShownSession[]> {
  return db
    .selectFrom("session")
    .select(shownColumns)
    .where("owner_id", "=", ownerId)
    .where("state", "<>", "ended")
    .orderBy("id")
    .execute();
}

/** Those of the named sessions that are there and the owner's. */
export async function listOwned(db: Kysely<Database>, ownerId: string, ids: readonly string[]): Promise<ShownSession[]> {
  if (ids.length === 0) return [];
  return db
    .selectFrom("session")
    .select(shownColumns)
    .where("owner_id", "=", ownerId)
    .where("id", "in", [...new Set(ids)])
    .orderBy("id")
    .execute();
}

/** Removes an ended session with everything of it; false when there is none that has ended. */
export async function deleteEnded(tx: Transaction<Database>, ownerId: string, sessionId: string): Promise<boolean> {
  const session = await tx
    .selectFrom("session")
    .select("id")
    .where("id", "=", sessionId)
    .where("owner_id", "=", ownerId)
    .where("state", "=", "ended")
    .forUpdate()
    .executeTakeFirst();
  if (!session) return false;
  await deleteRows(tx, sessionId);
  return true;
}

async function deleteRows(tx: Transaction<Database>, sessionId: string): Promise<void> {
  for (const table of ["event", "pause", "command", "queued_prompt", "snapshot"] as const)
    await tx.deleteFrom(table).where("session_id", "=", sessionId).execute();
  await tx.deleteFrom("session").where("id", "=", sessionId).execute();
}

/** Removes a session that is to be erased, with everything of it, whatever its state. Nothing happens when it is gone, or not to be erased. */
export async function deleteErased(db: Kysely<Database>, sessionId: string): Promise<void> {
  const doomed = (from: Kysely<Database>) =>
    from.selectFrom("session").select("id").where("id", "=", sessionId).where("desired", "=", "erase");
  // A log may be long: what took place of its removal need not be done again.
  for (let deleted = eventsAtOnce; deleted === eventsAtOnce; ) {
    const some = db.selectFrom("event").select("seq").where("session_id", "in", doomed(db)).limit(eventsAtOnce);
    const done = await db.deleteFrom("event").where("session_id", "=", sessionId).where("seq", "in", some).executeTakeFirst();
    deleted = Number(done.numDeletedRows);
  }
  await db.transaction().execute(async (tx) => {
    if ((await doomed(tx).forUpdate().execute()).length === 0) return;
    await tx.deleteFrom("rate_limit").where("kind", "=", "prompt").where("subject", "=", sessionId).execute();
    await deleteRows(tx, sessionId);
  });
}

const eventsAtOnce = 20_000;
