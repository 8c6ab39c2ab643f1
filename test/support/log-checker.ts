/** What must be true of every log whatever happened to the processes around it (assurance §4.6, I1 to I9). */
import type { Kysely } from "kysely";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import type { Database } from "../../server/db/database.ts";
import {
  checkChain,
  checkDense,
  checkEnd,
  checkEpochs,
  checkPauses,
  checkPrompts,
  checkRunnerNumbersOnce,
  checkRunnerOrder,
  checkTurns,
} from "./log-rules.ts";
import type { Person } from "./person.ts";

export type LogReport = { events: Event[]; turns: number; epochs: number[] };

/** `prompts` are the request ids of every accepted prompt; with it each must be in the log once and no other may be. */
export async function checkLog(db: Kysely<Database>, person: Person, sessionId: string, prompts?: readonly string[]): Promise<LogReport> {
  const session = await db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
  // A session that lives may say more while this is read: all is judged as far as its row went.
  const upTo = session.last_seq;
  const rows = await db
    .selectFrom("event")
    .selectAll()
    .where("session_id", "=", sessionId)
    .where("seq", "<=", upTo)
    .orderBy("seq")
    .execute();
  const events = (await readAll(person, sessionId)).filter(({ seq }) => seq <= upTo);
  const problems = [
    ...checkDense(rows, session.last_seq),
    ...checkEpochs(rows),
    ...checkRunnerNumbersOnce(rows),
    ...checkRunnerOrder(rows),
    ...checkChain(rows, session.chain),
    ...(events.length === rows.length ? [] : [`the API shows ${events.length} of ${rows.length} events`]),
    ...checkEnd(events, session.state === "ended"),
    ...checkTurns(events, session.state === "ended"),
    ...checkPauses(events),
    ...(prompts ? checkPrompts(events, prompts) : []),
  ];
  if (problems.length > 0) throw new Error(`the log of ${sessionId} is broken:\n${problems.join("\n")}\n${describe(events)}`);
  return { events, turns: count(events, "turnStart"), epochs: [...new Set(rows.map((row) => row.epoch))] };
}

/** The whole log by pages of history. */
export async function readAll(person: Person, sessionId: string): Promise<Event[]> {
  const all: Event[] = [];
  for (;;) {
    const { events } = await person.channel.listEvents({ sessionId, afterSeq: all.at(-1)?.seq ?? 0, limit: 200 });
    if (events.length === 0) return all;
    all.push(...events);
  }
}

function count(events: readonly Event[], kind: string): number {
  return events.filter((event) => event.payload?.kind.case === kind).length;
}

function describe(events: readonly Event[]): string {
  return events.map((event) => `${event.seq} t${event.turn} ${event.payload?.kind.case}`).join("\n");
}
