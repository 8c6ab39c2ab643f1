/** What must be true of every log whatever happened to the processes around it (assurance §4.6, I1 to I9). */
import type { Kysely } from "kysely";
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import type { Database } from "../../server/db/database.ts";
import { chainLink, emptyChain } from "../../server/journal/seal.ts";
import type { Person } from "./person.ts";

export type LogReport = { events: Event[]; turns: number; epochs: number[] };

/** `prompts` are the request ids of every accepted prompt; with it each must be in the log once and no other may be. */
export async function checkLog(db: Kysely<Database>, person: Person, sessionId: string, prompts?: readonly string[]): Promise<LogReport> {
  const session = await db.selectFrom("session").selectAll().where("id", "=", sessionId).executeTakeFirstOrThrow();
  const rows = await db.selectFrom("event").selectAll().where("session_id", "=", sessionId).orderBy("seq").execute();
  const events = await readAll(person, sessionId);
  const problems = [
    ...checkRows(rows),
    ...checkChain(rows, session.chain),
    ...(session.last_seq === rows.length ? [] : [`the session counts ${session.last_seq} events, the table ${rows.length}`]),
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

type Row = { seq: number; epoch: number; runner_seq: number | null; payload: Uint8Array; chain: Buffer };

function checkRows(rows: readonly Row[]): string[] {
  const problems: string[] = [];
  const lastOf = new Map<number, number>();
  let epoch = 0;
  for (const [index, row] of rows.entries()) {
    if (row.seq !== index + 1) problems.push(`row ${index + 1} has seq ${row.seq}`);
    if (row.epoch < epoch) problems.push(`seq ${row.seq} is of epoch ${row.epoch}, after epoch ${epoch}`);
    epoch = row.epoch;
    if (row.runner_seq === null) continue;
    // Strictly growing, and so unique, within an epoch.
    if (row.runner_seq <= (lastOf.get(row.epoch) ?? 0))
      problems.push(`seq ${row.seq} repeats or goes back in the runner's numbers: ${row.epoch}/${row.runner_seq}`);
    lastOf.set(row.epoch, row.runner_seq);
  }
  return problems;
}

function checkChain(rows: readonly Row[], head: Buffer): string[] {
  let chain: Uint8Array = emptyChain;
  for (const row of rows) {
    chain = chainLink(chain, row.seq, row.payload);
    if (!row.chain.equals(chain)) return [`the hash chain breaks at ${row.seq}`];
  }
  return head.equals(chain) ? [] : ["the session's chain is not that of its last event"];
}

function checkEnd(events: readonly Event[], ended: boolean): string[] {
  const ends = events.filter((event) => event.payload?.kind.case === "sessionEnd");
  if (!ended) return ends.length === 0 ? [] : ["a live session has an end in its log"];
  return ends.length === 1 && events.at(-1) === ends[0]
    ? []
    : [`an ended session has ${ends.length} ends, and its last event is ${events.at(-1)?.payload?.kind.case}`];
}

/** Turns follow one another, each of one prompt, none twice; what the agent says and does is inside one. */
function checkTurns(events: readonly Event[], ended: boolean): string[] {
  const problems: string[] = [];
  const prompts = new Set<number>();
  const started = new Set<number>();
  let open = 0;
  for (const event of events) {
    const kind = event.payload?.kind;
    if (kind?.case === "user") prompts.add(event.seq);
    if (kind?.case === "turnStart") {
      const { promptSeq } = kind.value;
      if (open > 0) problems.push(`turn ${promptSeq} starts at ${event.seq} inside turn ${open}`);
      if (!prompts.has(promptSeq)) problems.push(`turn ${promptSeq} has no prompt before ${event.seq}`);
      if (started.has(promptSeq)) problems.push(`turn ${promptSeq} starts twice, again at ${event.seq}`);
      started.add(promptSeq);
      open = promptSeq;
    }
    if ((kind?.case === "assistant" || kind?.case === "toolUse" || kind?.case === "toolResult") && event.turn !== open) {
      problems.push(`${kind.case} at ${event.seq} says turn ${event.turn}, open is ${open}`);
    }
    if (kind?.case === "result") {
      if (open === 0 || event.turn !== open) problems.push(`the result at ${event.seq} says turn ${event.turn}, open is ${open}`);
      open = 0;
    }
  }
  // A session may end in the middle of its last turn; it then says so.
  if (
    ended &&
    open > 0 &&
    !events.some((event) => event.payload?.kind.case === "system" && event.payload.kind.value.subtype === "turn_interrupted")
  ) {
    problems.push(`turn ${open} neither ends nor is said to be interrupted`);
  }
  return problems;
}

function checkPauses(events: readonly Event[]): string[] {
  const open = new Set<string>();
  const problems: string[] = [];
  for (const event of events) {
    const kind = event.payload?.kind;
    if (kind?.case === "toolApprovalRequest") open.add(kind.value.toolUseId);
    if (kind?.case === "askUserQuestion") open.add(kind.value.questionId);
    const resolved =
      kind?.case === "toolApprovalResolved" ? kind.value.toolUseId : kind?.case === "questionResolved" ? kind.value.questionId : undefined;
    if (resolved !== undefined && !open.delete(resolved))
      problems.push(`the pause ${resolved} is resolved at ${event.seq} but was not open`);
    if (kind?.case === "sessionEnd" && open.size > 0) problems.push(`pauses are open at the end: ${[...open].join(", ")}`);
  }
  return problems;
}

function checkPrompts(events: readonly Event[], prompts: readonly string[]): string[] {
  const seen = events.flatMap((event) => (event.payload?.kind.case === "user" ? [event.payload.kind.value.requestId] : []));
  const wanted = new Set(prompts);
  return [
    ...[...wanted].flatMap((id) => {
      const times = seen.filter((one) => one === id).length;
      return times === 1 ? [] : [`the accepted prompt ${id} is in the log ${times} times`];
    }),
    ...seen.filter((id) => !wanted.has(id)).map((id) => `a prompt "${id}" is in the log that nobody was promised`),
  ];
}

function count(events: readonly Event[], kind: string): number {
  return events.filter((event) => event.payload?.kind.case === kind).length;
}

function describe(events: readonly Event[]): string {
  return events.map((event) => `${event.seq} t${event.turn} ${event.payload?.kind.case}`).join("\n");
}
