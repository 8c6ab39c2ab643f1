// What must hold of the calls that people are asked about (assurance I19), and of the turns that wait for them.
import { broken, type Known, type Truth } from "./checker.ts";
import type { AskedCall } from "./pauses.ts";
import type { Lease } from "./runner-service.ts";
import type { Process } from "./scheduler.ts";
import type { Change, LoggedEvent, Row } from "./tables.ts";
import type { Sandbox, World } from "./world.ts";

/** An answer, and whether it was given while there was no agent to be told; `usedBy` is the one call it has counted for. */
type Answer = { turn: number; about: string; isAllowed: boolean; isKept: boolean; usedBy: string | undefined };

export type Asked = {
  /** By call, the turn in which it was asked about. */
  turns: Map<string, number>;
  answers: Map<string, Answer>;
  /** By call that was asked again, the one that was answered. */
  applied: Map<string, string>;
  /** Calls that an agent has begun, and tools that run. */
  begun: Map<string, Process>;
  running: Map<string, Process>;
  interrupted: Set<number>;
};

export function newAsked(): Asked {
  return { turns: new Map(), answers: new Map(), applied: new Map(), begun: new Map(), running: new Map(), interrupted: new Set() };
}

export function checksOfCalls({ truthOf }: Known) {
  return {
    callBegun({ sessionId }: Lease, call: string, agent: Process, sandbox: Sandbox): void {
      if (!sandbox.isLingering) truthOf(sessionId).asked.begun.set(call, agent);
    },
    toolStarted({ sessionId }: Lease, call: string, agent: Process, sandbox: Sandbox): void {
      if (!sandbox.isLingering) truthOf(sessionId).asked.running.set(call, agent);
    },
    /** Beside what waits something is at work, or was when its agent was lost; or the turn is about to end. */
    putOff({ tables, row }: Change): void {
      const { begun, interrupted } = truthOf(row.id).asked;
      if (interrupted.has(row.turn)) return;
      const calls = [...begun].filter(([, agent]) => agent.alive).map(([call]) => tables.pauses.get(call));
      if (calls.length > 0 && calls.every((pause) => pause?.outcome === null && !pause.isOfSubAgent))
        broken("who only waits is put away", `${row.id}: turn ${row.turn}`);
    },
  };
}

/** A call runs when nobody had to be asked, or when a person allowed it, or the same call of the same turn before. */
export function checkAllowed(world: World, session: string, asked: Asked, turn: number, { id, about, isOfSubAgent }: AskedCall): void {
  asked.running.delete(id);
  if (world.store.sessions.get(session)!.pauses.has(id)) return checkAnswered(asked, turn, id);
  const refused = [...asked.answers.values()].some(
    (answer) =>
      answer.isKept && !answer.isAllowed && !answer.usedBy && answer.turn === turn && answer.about === contentOf(about, isOfSubAgent),
  );
  if (refused) broken("I19 what a person has refused does not run", `${session} ${id}`);
}

function checkAnswered(asked: Asked, turn: number, id: string): void {
  const answer = asked.answers.get(asked.applied.get(id) ?? id);
  if (!answer?.isAllowed) broken("I19 what was asked about runs when a person said so", id);
  if (answer.turn !== turn) broken("I19 an answer is for its turn", id);
  if ((answer.usedBy ?? id) !== id) broken("I19 an answer counts once", id);
  answer.usedBy = id;
}

function contentOf(about: string, isOfSubAgent: boolean): string {
  return `${about} ${isOfSubAgent}`;
}

/** Looked at when a change is committed. */
export function checkAsked(world: World, { asked }: Truth, before: Row, change: Change): void {
  for (const event of change.events) checkEvent(world, asked, change, event);
  for (const command of change.commands) if (command.kind === "interrupt") asked.interrupted.add(command.turn);
  checkSleep(world, asked, before, change);
  for (const { call, answer, isAllowed, about, isOfSubAgent } of change.closed) {
    if (answer === "" || asked.answers.has(call)) continue;
    const turn = asked.turns.get(call)!;
    const isKept = isAsleep(before);
    asked.answers.set(call, { turn, about: contentOf(about, isOfSubAgent), isAllowed, isKept, usedBy: undefined });
    if (isKept) world.checker.reach("an approval is answered while its session is away");
  }
}

function checkEvent(world: World, asked: Asked, { row, tables }: Change, { kind, about, turn }: LoggedEvent): void {
  const [word, call = about, answered = ""] = about.split(" ");
  if (kind === "toolResult") asked.begun.delete(about);
  if (kind === "approvalRequest") {
    asked.turns.set(about, turn);
    const { about: does, isOfSubAgent } = tables.pauses.get(about)!;
    const isAnswered = [...asked.answers.values()].some(
      (one) => one.isKept && !one.usedBy && one.turn === turn && one.about === contentOf(does, isOfSubAgent),
    );
    if (isAnswered) broken("I19 what a person has answered is not asked again", `${row.id} ${about}`);
  }
  if (about === "asking_again" && asked.interrupted.has(turn)) broken("a turn that was interrupted does not go on", `${row.id} ${turn}`);
  if (word === "answer_applied") {
    const answer = asked.answers.get(answered)!;
    const pause = tables.pauses.get(call)!;
    if (answer.usedBy) broken("I19 an answer counts once", `${row.id} ${answered}`);
    if (answer.turn !== turn) broken("I19 an answer is for its turn", `${row.id}: ${answered} of ${answer.turn} in ${turn}`);
    if (answer.about !== contentOf(pause.about, pause.isOfSubAgent) || answer.isAllowed !== pause.isAllowed)
      broken("I19 an answer is for the same call", `${row.id} ${call}`);
    answer.usedBy = call;
    asked.applied.set(call, answered);
    world.checker.reach(answer.isAllowed ? "a carried answer is applied" : "a carried refusal is applied");
  }
}

/** A turn waits while its session is away: with nothing at work, and nothing of it is lost. */
function checkSleep(world: World, asked: Asked, before: Row, { row, tables, events }: Change): void {
  const isSameTurn = before.turn === row.turn && row.turn > 0;
  if (before.state === "running" && row.state === "hibernating") {
    for (const [call, agent] of asked.running) if (agent.alive) broken("who is at work is not put away", `${row.id}: ${call}`);
  }
  if (row.state === "dormant" && before.state === "hibernating" && row.turn > 0) world.checker.reach("a session that waits is put away");
  if (!isAsleep(before)) return;
  if (row.state === "running" && !row.restoring && isSameTurn) {
    const open = [...tables.pauses.values()].find(({ outcome }) => outcome === null);
    if (open) broken("I19 what a stopped agent asked is closed", `${row.id} ${open.call}`);
  }
  const isLost = row.state !== "ended" && events.some(({ about }) => about === "turn_interrupted");
  if (isLost && before.restoring) broken("L1 a turn that waits is not lost with the sandbox that brings it back", row.id);
}

function isAsleep({ state, restoring }: Row): boolean {
  return state === "hibernating" || state === "dormant" || restoring;
}
