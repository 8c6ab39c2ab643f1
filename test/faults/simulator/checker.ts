// What must hold, checked as it happens (assurance I1–I19) and once more at the end of a schedule, when everything must have
// come to rest (L1–L4). It sees all that is true, which no program does.
import { type Asked, checkAllowed, checksOfCalls, newAsked } from "./asked.ts";
import { checkChange } from "./invariants.ts";
import type { AskedCall } from "./pauses.ts";
import type { Lease } from "./runner-service.ts";
import type { Process } from "./scheduler.ts";
import type { Change, Command, LoggedEvent, Row, SessionTables } from "./tables.ts";
import type { Watcher } from "./watchers.ts";
import type { Box, Sandbox, World } from "./world.ts";

/** A promise that was broken. */
export class Violation extends Error {}

export function broken(promise: string, details: string): never {
  throw new Violation(`${promise}: ${details}`);
}

/** What is known of a session besides its tables. */
export type Truth = {
  /** The runner's own number of the last event in the log, by epoch. */
  logged: Map<number, number>;
  /** The last number that a runner with the right to speak has given, by epoch. */
  said: Map<number, number>;
  /** What is in its files. */
  files: number;
  /** Prompts that were given to runners, by epoch; prompts whose tools ran; calls that ran. */
  prompted: Set<string>;
  acted: Set<number>;
  ran: Set<string>;
  asked: Asked;
  isTurnOpen: boolean;
};

type ProviderAnswer = { session: string; cost: number; by: Process; booked: number };

export type Known = {
  truthOf(session: string): Truth;
  reached: Map<string, number>;
  reach(what: string): void;
  rowOf(session: string): Row | undefined;
};

export type Checker = ReturnType<typeof createChecker>;

export function createChecker(world: World) {
  const truths = new Map<string, Truth>();
  const reached = new Map<string, number>();
  const known: Known = {
    reached,
    reach: (what) => void reached.set(what, (reached.get(what) ?? 0) + 1),
    rowOf: (session) => world.store.sessions.get(session)?.row,
    truthOf(session) {
      const truth = truths.get(session) ?? newTruth();
      truths.set(session, truth);
      return truth;
    },
  };
  return {
    ...known,
    ...checksOfChanges(world, known),
    ...checksOfMachines(world),
    ...checksOfRunners(world, known),
    ...checksOfCalls(known),
    ...checksOfMoney(),
    ...checksOfPeople(world),
  };
}

function checksOfChanges(world: World, { reach, rowOf }: Known) {
  return {
    /** Archives that the nemesis took. */
    lost: new Set<string>(),
    committed(before: Row, change: Change): void {
      world.onChange?.(before, change, world.scheduler.now);
      checkChange(world, before, change);
    },
    decided(seen: Row, step: string, { sandbox }: { sandbox: string | undefined }): void {
      if (step !== "wait") reach(`step: ${step}`);
      if (step !== "recover" && step !== "give_up" && step !== "startup_timeout") return;
      // What was decided from a row of before comes to nothing.
      if (rowOf(seen.id) !== seen) return;
      if (world.isCalm) broken("nobody is lost where nothing fails", `${step} of ${seen.id}`);
      const isLate = seen.lease_until === null || seen.lease_until.getTime() < world.scheduler.now;
      // A start of which no sandbox came has nobody who could be late.
      const cameToNothing = seen.state === "starting" && sandbox === undefined;
      if (!isLate && !cameToNothing && sandbox !== "exited")
        broken("nobody is called late before the database's clock says so", `${step} of ${seen.id}`);
    },
  };
}

function checksOfMachines(world: World) {
  const sessionOf = new Map<number, string>();
  return {
    sandboxStarted(sandbox: Sandbox, session: string): void {
      sessionOf.set(sandbox.id, session);
      for (const other of world.sandboxes.values()) {
        if (other.id !== sandbox.id && other.box === sandbox.box) broken("I17 one sandbox over a box", sandbox.box.id);
      }
    },
    sessionOf: (sandbox: Sandbox): string | undefined => sessionOf.get(sandbox.id),
    filesRemoved(box: Box): void {
      checkFilesRemoved(world, box);
    },
    archiveRemoved(archive: string): void {
      for (const { row, snapshots } of world.store.sessions.values()) {
        if (snapshots.some((one) => one.archive === archive)) broken("I15 no row names a missing archive", `${archive} of ${row.id}`);
      }
    },
  };
}

function checksOfRunners(world: World, { truthOf, rowOf }: Known) {
  return {
    acknowledged({ sessionId, epoch }: Lease, last: number): void {
      const logged = truthOf(sessionId).logged.get(epoch) ?? 0;
      if (last > logged) broken("I1 what is acknowledged is in the log", `${sessionId} epoch ${epoch}: ${last} of ${logged}`);
    },
    said({ sessionId, epoch }: Lease, runnerSeq: number, sandbox: Sandbox): void {
      const row = rowOf(sessionId);
      const mayStillSpeak = row?.epoch === epoch && row.state !== "ended" && row.state !== "dormant" && world.sandboxes.has(sandbox.id);
      if (mayStillSpeak) truthOf(sessionId).said.set(epoch, runnerSeq);
    },
    prompted({ sessionId, epoch }: Lease, command: Extract<Command, { kind: "prompt" }>, sandbox: Sandbox): void {
      if (sandbox.isLingering) return;
      const { prompted, acted } = truthOf(sessionId);
      const { seq, isAgain } = command;
      const name = isAgain ? `${epoch}/${seq} again by ${command.id}` : `${epoch}/${seq}`;
      if (prompted.has(name)) broken("a prompt is given to a runner once", `${sessionId} ${seq}`);
      prompted.add(name);
      if (acted.has(seq) && !isAgain) broken("what tools did is not done twice", `${sessionId} ${seq}`);
    },
    toolRan({ sessionId, epoch }: Lease, seq: number, asked: AskedCall, { box }: Sandbox): void {
      const truth = truthOf(sessionId);
      const call = asked.id;
      const { row } = world.store.sessions.get(sessionId)!;
      if (row.epoch !== epoch) broken("I6 one runner acts", `${sessionId}: tool of epoch ${epoch} in ${row.epoch}`);
      if (truth.ran.has(call)) broken("a call runs once", call);
      checkAllowed(world, sessionId, truth.asked, seq, asked);
      truth.ran.add(call);
      truth.acted.add(seq);
      truth.files = box.files;
    },
    /** What the agent left running writes whenever it likes. */
    filesChanged({ sessionId }: Lease, { box }: Sandbox): void {
      truthOf(sessionId).files = box.files;
    },
  };
}

function checksOfMoney() {
  const providerAnswers = new Map<string, ProviderAnswer>();
  return {
    providerAnswers,
    modelRequested(row: Row, epoch: number): void {
      const { max_budget_micros: budget, max_turns: turns } = row;
      if (row.epoch !== epoch) broken("I6 no model request of an earlier epoch", `${row.id}: ${epoch} in ${row.epoch}`);
      if (budget !== null && row.spent >= budget) broken("I11 no request over the budget", `${row.id}: ${row.spent} of ${budget}`);
      if (turns !== null && row.model_requests >= turns) broken("I11 no request over the turns", row.id);
    },
    providerAnswered(request: string, session: string, cost: number, by: Process): void {
      providerAnswers.set(request, { session, cost, by, booked: 0 });
    },
    booked(request: string): void {
      const answer = providerAnswers.get(request)!;
      answer.booked += 1;
      if (answer.booked > 1) broken("I12 an answer is booked once", request);
    },
  };
}

function checksOfPeople(world: World) {
  const answers = new Map<string, string>();
  const prompts = new Map<string, { session: string; seq: number }>();
  const watchers: Watcher[] = [];
  return {
    prompts,
    watchers,
    answered(requestId: string, answer: string): void {
      const first = answers.get(requestId);
      if (first !== undefined && first !== answer) broken("I7 a repeat gets the first answer", `${requestId}: ${first}, ${answer}`);
      answers.set(requestId, answer);
    },
    promptAccepted(session: string, requestId: string, seq: number): void {
      const event = world.store.sessions.get(session)?.log[seq - 1];
      if (event?.kind !== "user" || event.about !== requestId) broken("I7 an accepted prompt is in the log", `${session} ${seq}`);
      prompts.set(requestId, { session, seq });
    },
    approvalAnswered(session: string, call: string, isAllowed: boolean): void {
      const pause = world.store.sessions.get(session)?.pauses.get(call);
      if (pause?.isAllowed !== isAllowed) broken("I19 the first answer stands", `${session} ${call}`);
    },
    watches: (watcher: Watcher): void => void watchers.push(watcher),
    seen(watcher: Watcher, event: LoggedEvent): void {
      const { log } = world.store.sessions.get(watcher.session) as SessionTables;
      if (event.seq !== watcher.lastSeen + 1) broken("I8 a watcher sees each event once", `${event.seq} after ${watcher.lastSeen}`);
      if (log[event.seq - 1] !== event) broken("I8 a watcher sees committed events", `${watcher.session} ${event.seq}`);
      watcher.lastSeen = event.seq;
    },
  };
}

function newTruth(): Truth {
  const sets = { prompted: new Set<string>(), acted: new Set<number>(), ran: new Set<string>() };
  return { ...sets, asked: newAsked(), logged: new Map(), said: new Map(), files: 0, isTurnOpen: false };
}

/** The files of a session go only when it has ended, or a whole snapshot holds all of them, or they are half of one. */
function checkFilesRemoved(world: World, box: Box): void {
  for (const sandbox of world.sandboxes.values()) if (sandbox.box === box) broken("I16 no sandbox without its files", box.id);
  for (const { row, snapshots } of world.store.sessions.values()) {
    if (row.box !== box.id || row.state === "ended" || row.desired === "end" || row.restoring) continue;
    if (row.state !== "dormant") broken("I13 the files of a living session stay", `${box.id} of ${row.id}, ${row.state}`);
    const current = snapshots.find(({ generation }) => generation === row.snapshot_generation);
    if (current && !world.blobs.has(current.archive) && !world.checker.lost.has(current.archive))
      broken("I15 its snapshot is there", row.id);
  }
}
