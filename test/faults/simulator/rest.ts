// Whether everything has come to rest, and what must be true then (assurance L1–L4, I7, I12, I16).
import { broken } from "./checker.ts";
import type { SessionTables } from "./tables.ts";
import type { World } from "./world.ts";

/** Why a world is not at rest; undefined when it is. */
export function unrest(world: World): string | undefined {
  for (const tables of world.store.sessions.values()) {
    const why = unrestOf(world, tables);
    if (why) return `${tables.row.id} ${why}`;
  }
  for (const { box } of world.sandboxes.values()) return `a sandbox over ${box.id} is left`;
  for (const { id } of world.boxes.values()) return `files of ${id} are left`;
  for (const { session, lastSeen } of world.checker.watchers) {
    const last = world.store.sessions.get(session)!.log.length;
    if (lastSeen < last) return `a watcher of ${session} has seen ${lastSeen} of ${last}`;
  }
  for (const [request, { by, booked }] of world.checker.providerAnswers) if (booked === 0 && by.alive) return `${request} is not booked`;
  return undefined;
}

function unrestOf(world: World, { row, log, queue }: SessionTables): string | undefined {
  if (row.state === "ended") return undefined;
  if (row.ends_at !== null && row.ends_at.getTime() < world.scheduler.now - 10_000) return "is past its lifetime";
  if (row.state !== "dormant" || row.desired !== "hibernate" || row.box !== null) return `is ${row.state}, wanted ${row.desired}`;
  const couldNotResume = log.findLast(({ about }) => about === "resume_failed" || about === "resumed")?.about === "resume_failed";
  if (row.pending_count > 0) return "waits for a person who answers";
  if (row.turn > 0 && !couldNotResume) return `is dormant in turn ${row.turn}, with nothing to wait for`;
  if (queue.length > 0 && !couldNotResume) return "is dormant with a prompt in its queue";
  return undefined;
}

/** The whole of it once more. */
export function checkAtRest(world: World): void {
  for (const tables of world.store.sessions.values()) checkLog(world, tables);
  checkPrompts(world);
  checkLedger(world);
}

function checkLog(world: World, { row, log }: SessionTables): void {
  let epoch = 0;
  const last = new Map<number, number>();
  for (const [index, event] of log.entries()) {
    if (event.seq !== index + 1) broken("I3 the log is dense", `${row.id} ${event.seq}`);
    if (event.epoch < epoch) broken("I5 epochs never decrease", `${row.id} ${event.seq}`);
    epoch = event.epoch;
    if (event.runnerSeq === null) continue;
    if (event.runnerSeq !== (last.get(epoch) ?? 0) + 1) broken("I2, I4 each event of a runner once and in order", `${row.id} ${event.seq}`);
    last.set(epoch, event.runnerSeq);
  }
  for (const [of, said] of world.checker.truthOf(row.id).said) {
    const logged = last.get(of) ?? 0;
    if (said > logged) broken("I1 what a runner has said is in the log", `${row.id} epoch ${of}: ${logged} of ${said}`);
  }
}

/** Much later: sessions that nobody used have ended, and what was kept of them is gone. */
export function checkForgotten(world: World): void {
  for (const { row } of world.store.sessions.values())
    if (row.state !== "ended") broken("what nobody uses ends", `${row.id} is ${row.state}`);
  for (const archive of world.blobs.keys()) broken("I16 nothing is left in the object store", archive);
}

function checkPrompts(world: World): void {
  const found = new Map<string, number>();
  for (const { log } of world.store.sessions.values()) {
    for (const { kind, about } of log) if (kind === "user") found.set(about, (found.get(about) ?? 0) + 1);
  }
  for (const [requestId, times] of found) if (times !== 1) broken("I7 a prompt is in the log once", `${requestId}: ${times} times`);
  for (const [requestId, { session, seq }] of world.checker.prompts) {
    if (world.store.sessions.get(session)?.log[seq - 1]?.about !== requestId) broken("I7 an accepted prompt is in the log", requestId);
  }
}

function checkLedger(world: World): void {
  const spent = new Map<string, number>();
  for (const { session, cost, booked } of world.checker.providerAnswers.values()) {
    if (booked > 0) spent.set(session, (spent.get(session) ?? 0) + cost);
  }
  for (const { row } of world.store.sessions.values()) {
    if (row.spent !== (spent.get(row.id) ?? 0)) broken("I12 the ledger is the sum of the answers", `${row.id}: ${row.spent}`);
  }
}
