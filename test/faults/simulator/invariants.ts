// What must hold of each change of a session, looked at when it is committed.
import { checkAsked } from "./asked.ts";
import { broken, type Truth } from "./checker.ts";
import { concurrentSessions } from "./sessions.ts";
import type { Change, LoggedEvent, Row } from "./tables.ts";
import { tries, type World } from "./world.ts";

/** Which states follow on which (docs/architecture.md); a session begins as requested. */
export const edges: ReadonlySet<string> = new Set([
  "requested → starting",
  "starting → running",
  "starting → requested",
  "starting → dormant",
  "running → requested",
  "running → hibernating",
  "hibernating → running",
  "hibernating → dormant",
  "hibernating → requested",
  "dormant → requested",
  "running → ending",
  "hibernating → ending",
  "requested → ended",
  "starting → ended",
  "dormant → ended",
  "ending → ended",
]);

export function checkChange(world: World, before: Row, change: Change): void {
  const { row, events, tables } = change;
  const truth = world.checker.truthOf(row.id);
  checkState(world, before, row);
  if (events.length > 0) checkEvents(world, truth, before, change);
  if (row.last_seq !== tables.log.length) broken("I3 the log is dense", `${row.id}: ${row.last_seq} of ${tables.log.length}`);
  if (row.queued_prompts !== tables.queue.length)
    broken("the row counts the queue", `${row.id}: ${row.queued_prompts} of ${tables.queue.length}`);
  checkPauses(change);
  checkParked(before, change);
  checkAsked(world, truth, before, change);
  if (row.snapshot_generation !== before.snapshot_generation) checkSnapshot(world, before, change);
  if (before.state !== "dormant" && row.state === "dormant") checkPutAway(world, truth, before, change);
  if (before.restoring && !row.restoring && row.state === "running" && row.desired !== "end") checkRestored(world, truth, change);
}

function checkState(world: World, before: Row, row: Row): void {
  if (row.last_seq > 0 && before.last_seq === 0) checkCreated(world, row);
  if (before.state !== row.state) {
    const edge = `${before.state} → ${row.state}`;
    if (!edges.has(edge)) broken("I9 states follow on each other as described", `${row.id}: ${edge}`);
    world.checker.reach(`edge: ${edge}`);
  }
  if (row.epoch !== before.epoch && row.epoch !== before.epoch + 1)
    broken("I5 epochs count up", `${row.id}: ${before.epoch}, ${row.epoch}`);
  if (before.end_reason !== null && row.end_reason !== before.end_reason) broken("I9 the first reason wins", row.id);
  if (before.desired === "end" && row.desired !== "end") broken("I9 an end that is wanted comes", row.id);
  if (before.turn > 0 && row.turn > 0 && before.turn !== row.turn && before.num_turns === row.num_turns)
    broken("one turn at a time", row.id);
  const isAtWork = row.turn > 0 && row.pending_count === 0;
  const isLeaving = row.state === "hibernating" && (isAtWork || row.desired !== "hibernate");
  if (isLeaving && row.desired !== "end") broken("who is at work is not put away", `${row.id}: turn ${row.turn}, ${row.desired}`);
}

function checkCreated(world: World, { owner, id }: Row): void {
  let count = 0;
  for (const { row } of world.store.sessions.values()) if (row.owner === owner && row.state !== "ended") count += 1;
  if (count > concurrentSessions) broken("I10 no more sessions than are allowed", `${id}: ${count}`);
}

function checkEvents(world: World, truth: Truth, before: Row, { row, events }: Change): void {
  if (before.state === "ended") broken("I9 the log of an ended session is closed", row.id);
  let seq = before.last_seq;
  for (const event of events) {
    seq += 1;
    if (event.seq !== seq) broken("I3 the log is dense", `${row.id}: ${event.seq} for ${seq}`);
    if (event.runnerSeq !== null) checkSaid(truth, event, row);
    if (event.kind === "turnStart" && truth.isTurnOpen) broken("one turn at a time", `${row.id} ${seq}`);
    if (event.kind === "turnStart" || event.kind === "result" || event.kind === "sessionEnd") truth.isTurnOpen = event.kind === "turnStart";
    if (event.about === "resume_failed" || event.about === "turn_interrupted") world.checker.reach(`event: ${event.about}`);
  }
}

function checkSaid({ logged }: Truth, { epoch, runnerSeq, saidIn }: LoggedEvent, row: Row): void {
  if (saidIn !== epoch || epoch !== row.epoch) broken("I6 one writer", `${row.id}: said in ${saidIn}, taken in ${epoch}`);
  const last = logged.get(epoch) ?? 0;
  if (runnerSeq !== last + 1) broken("I2, I4 each event of a runner once and in order", `${row.id}: ${runnerSeq} after ${last}`);
  logged.set(epoch, runnerSeq!);
}

function checkParked(before: Row, { row, events }: Change): void {
  if (row.parked_at !== null && row.desired === "end") broken("who is to end is not parked", row.id);
  if (before.parked_at !== null && row.epoch !== before.epoch && row.desired !== "end") broken("who is parked is left alone", row.id);
  if (before.parked_at !== null && row.parked_at !== null && events.some(({ kind }) => kind === "user"))
    broken("a prompt is heard by who is parked", row.id);
  const isPatient = row.desired === "end" || row.state === "dormant";
  if (row.failures > tries.stepTries && !isPatient) broken("who is not to end is not tried for ever", `${row.id}: ${row.failures}`);
}

function checkPauses({ row, tables }: Change): void {
  if (tables.pauses.size === 0) return;
  // Put away, a session waits though its runner is gone.
  const isAway = row.restoring || row.state === "dormant";
  let open = 0;
  for (const { outcome, call, epoch } of tables.pauses.values()) {
    if (outcome !== null) continue;
    open += 1;
    if (epoch !== row.epoch && !isAway) broken("I19 what a lost runner asked is closed", `${row.id} ${call}`);
  }
  if (open !== row.pending_count) broken("the row counts what is asked", `${row.id}: ${row.pending_count} of ${open}`);
}

function checkSnapshot(world: World, before: Row, { row, tables }: Change): void {
  const { snapshot_generation: generation } = row;
  if (generation !== (before.snapshot_generation ?? 0) + 1) broken("I13 generations count up", `${row.id}: ${generation}`);
  const current = tables.snapshots.filter((one) => one.generation === generation);
  if (current.length !== 1) broken("I13 one snapshot of a generation", `${row.id}: ${generation}`);
  for (const { archive, epoch } of tables.snapshots) {
    const blob = world.blobs.get(archive);
    if (blob && blob.session !== row.id) broken("I14 a fork shares nothing with its source", archive);
    if (archive !== current[0]!.archive || world.checker.lost.has(archive)) continue;
    if (!blob?.isWhole || blob.isDamaged) broken("I15 the current snapshot is whole and was read", archive);
    if (epoch !== 0 && epoch !== row.epoch) broken("I6 a snapshot is of the epoch that has the lease", archive);
  }
}

function checkPutAway(world: World, truth: Truth, before: Row, { row, tables }: Change): void {
  if (before.state !== "hibernating") return;
  const waits = row.turn > 0 && row.pending_count > 0;
  if (!waits && (row.turn > 0 || row.pending_count > 0 || row.queued_prompts > 0)) broken("who is at work is not put away", row.id);
  const archive = tables.snapshots.at(-1)?.archive ?? "";
  const blob = world.blobs.get(archive);
  if (blob && blob.files !== truth.files) broken("I13 a snapshot holds all that was done", `${row.id}: ${blob.files}, not ${truth.files}`);
}

function checkRestored(world: World, truth: Truth, { row, tables }: Change): void {
  const current = tables.snapshots.find(({ generation }) => generation === row.snapshot_generation);
  const blob = world.blobs.get(current?.archive ?? "");
  const box = world.boxes.get(row.box ?? "");
  if (blob && box?.files !== blob.files)
    broken("I13 what is brought back is what was put away", `${row.id}: ${box?.files}, not ${blob.files}`);
  truth.files = box?.files ?? 0;
}
