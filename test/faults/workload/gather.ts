// Collects, when everything has ended, what database, object store and machine hold.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import { digestOf, listSnapshots } from "../../../server/snapshots/store.ts";
import { readAll } from "../../support/log-checker.ts";
import { leftovers } from "../../support/sandboxes.ts";
import type { Evidence, SessionEvidence } from "../history/evidence.ts";
import { blobsOf, type World } from "../world.ts";

export async function gatherSessions({ installation, person }: World): Promise<SessionEvidence[]> {
  const { db } = installation.database;
  const found = await db.selectFrom("session").selectAll().orderBy("id").execute();
  const all: SessionEvidence[] = [];
  for (const row of found) {
    const rows = await db
      .selectFrom("event")
      .select(["seq", "epoch", "runner_seq", "payload", "chain"])
      .where("session_id", "=", row.id)
      .orderBy("seq")
      .execute();
    const kept = await listSnapshots(db, row.id);
    const hashes = { attach: row.attach_hash, lease: row.lease_hash, phantom: row.phantom_hash };
    all.push({
      session: { ...row, tokens: Object.entries(hashes).flatMap(([kind, hash]) => (hash ? [`${kind} ${hash.toString("hex")}`] : [])) },
      rows,
      events: await readAll(person, row.id),
      snapshots: kept.map((snapshot) => ({ ...snapshot, ...digestOf(snapshot) })),
    });
  }
  return all;
}

/** Everything in the object store, as it lies on the disk. */
export function gatherArchives({ installation }: World): Evidence["archives"] {
  const folder = join(blobsOf(installation), "snapshots");
  return namesBelow(folder).map((name) => {
    const content = readFileSync(join(folder, name));
    return { name: name.replace(/@$/, ""), bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") };
  });
}

function namesBelow(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** What holds others up: transactions that do nothing, statements that wait, and work that nobody will do. */
export async function gatherStuck({ installation }: World): Promise<string[]> {
  const { db } = installation.database;
  const { rows } = await sql<{ what: string }>`
    select state || ': ' || coalesce(wait_event_type, '') as what from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and (state like 'idle in transaction%' or wait_event_type = 'Lock') and state_change < now() - interval '1 second'
    union all select 'command ' || id || ' for ' || session_id from command
    union all select 'prompt ' || seq || ' of ' || session_id || ' waits for ever' from queued_prompt
      join session on session.id = session_id where state = 'ended'
    union all select 'pause ' || pause.id || ' of ' || session_id || ' is open' from pause
      join session on session.id = session_id where outcome is null and session.state = 'ended'
    union all select 'a request id without an answer' from request_id where length(response) = 0`.execute(db);
  return rows.map(({ what }) => what);
}

export async function gatherProfiles({ installation }: World): Promise<Evidence["profiles"]> {
  const { rows } = await sql<{ owner_id: string; count: number; defaults: number }>`
    select u.id as owner_id, (select count(*) from profile p where p.owner_id = u.id)::int as count,
      (select count(*) from default_profile d where d.owner_id = u.id)::int as defaults from app_user u`.execute(installation.database.db);
  return rows.map(({ owner_id, count, defaults }) => ({ ownerId: owner_id, count, defaults }));
}

/**
 * What is left of the sandboxes once the server had the time it is given to remove it, and has left and taken along the one that
 * stood by; and how long its leaving took. Nothing is looked for after the next start, which would clean up.
 */
export async function gatherEnd({ installation, keeper }: World, patienceMs = 15_000): Promise<{ leftovers: Leftovers; drain: number }> {
  const giveUpAt = performance.now() + patienceMs;
  while (performance.now() < giveUpAt && leftovers(installation).records.length > 1) await sleep(100);
  const stopping = performance.now();
  await keeper.end("SIGTERM");
  return { leftovers: leftovers(installation), drain: performance.now() - stopping };
}

type Leftovers = ReturnType<typeof leftovers>;
