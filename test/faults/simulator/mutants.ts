// Planted bugs: the production's rules with one of them, or one order of effects, made wrong. Each must be found.
import { productionRules, type Rules } from "./rules.ts";

export type Mutant = { name: string; rules: Rules };

const rules = productionRules;
const replaced = (change: Partial<Rules>): Rules => ({ ...rules, ...change });
const without = (order: keyof Rules["order"]): Rules => replaced({ order: { ...rules.order, [order]: false } });

const fencing: Record<string, Rules> = {
  "the epoch is not compared when a runner reports": replaced({
    holdsLease: ({ state }) => state !== "ended" && state !== "dormant" && state !== "requested",
  }),
  "a session that is to be brought back anew listens to the runner that could not": replaced({
    holdsLease: ({ epoch, state }, of) => epoch === of && state !== "ended" && state !== "dormant",
  }),
  "an ended or dormant session still listens to its runner": replaced({ holdsLease: ({ epoch }, of) => epoch === of }),
  "a recovery keeps the epoch": replaced({
    recovered: (row, now, ms) => ({ ...rules.recovered(row, now, ms), epoch: row.epoch }),
    launched: sameEpoch,
  }),
  "a step that was overtaken is taken all the same": replaced({ isUnmoved: () => true }),
  "a phantom token of an earlier epoch still opens the model": without("comparePhantom"),
  "a change without the lock does not compare the version": without("compareVersion"),
};

const events: Record<string, Rules> = {
  "a repeated batch is skipped one event short": replaced({ alreadyCommitted: skip(-1) }),
  "a repeated batch is skipped one event too far": replaced({ alreadyCommitted: skip(1) }),
  "a hole in a runner's numbers is taken": replaced({ alreadyCommitted: (_last, _first, _count) => ({ skip: 0 }) }),
  "a new runner's numbers go on from the last one's": replaced({ attached: keepNumbers }),
  "a batch is acknowledged before it is committed": without("acknowledgeAfterCommit"),
  "a runner forgets what it has sent": without("forgetAfterAcknowledgement"),
  "a runner sends before it writes into its spool": without("spoolBeforeSending"),
  "the spool of a lost runner is not read": without("hearSpool"),
  "readers are handed events before the commit": without("publishAfterCommit"),
  "a reader goes on one event too early": replaced({ resumeAfter: (seen) => Math.max(0, seen - 1) }),
  "a reader goes on one event too late": replaced({ resumeAfter: (seen) => (seen === 0 ? 0 : seen + 1) }),
};

const turns: Record<string, Rules> = {
  "nothing counts as an act of the agent": replaced({ isAct: () => false }),
  "the turn of a lost runner is always repeated": replaced({ fateOfTurn: ({ turn }) => (turn === 0 ? "none" : "repeated") }),
  "the turn of a lost runner is forgotten": replaced({ fateOfTurn: () => "none" }),
  "commands of a lost runner go to the next": without("deleteCommands"),
  "a runner obeys a command as often as it comes": without("skipHandledCommands"),
  "a queued prompt starts while a turn is under way": replaced({ startsNextTurn: ({ queued_prompts }) => queued_prompts > 0 }),
  "a prompt starts while another's turn is under way": replaced({ placeOfPrompt: startAlways }),
  "a prompt does not wake a dormant session": without("wakeOnPrompt"),
  "the last of two answers to an approval wins": replaced({ isFirstAnswer: () => true }),
  "a call is asked about anew whenever its runner asks": replaced({ standingOfCall: () => "new" }),
  "the answer to a request id is kept after its work": without("keepAnswerWithWork"),
};

const waiting: Record<string, Rules> = {
  "an answer that was kept counts twice": without("dropCarried"),
  "an answer that was kept counts for the next turn too": replaced({
    isAnswerTo: (kept, call) => rules.isAnswerTo({ ...kept, turn: call.turn }, call),
  }),
  "an answer that was kept counts for any call": replaced({
    isAnswerTo: (kept, call) => rules.isAnswerTo({ ...kept, asked: call.asked }, call),
  }),
  "an answer that no agent can be told is forgotten": without("carryAnswers"),
  "an answer is told to a runner whose agent was stopped": replaced({ isAsleep: ({ state }) => state === "dormant" }),
  "what a stopped or lost agent asked stays open": without("closeBeforeAskingAgain"),
  "an agent that waits is told to go on": without("replaceBusyAgent"),
  "a turn that waits is put away although a tool is at work": replaced({ onlyWaits: (session) => rules.waitsForPeople(session) }),
  "what an agent left behind counts as unfinished": replaced({ followCalls: withoutNews("agent_replaced") }),
  "what another turn left behind counts as unfinished": replaced({
    followCalls: (unfinished, turn, event) => rules.followCalls(unfinished, turn, { ...event, turn }),
  }),
  "a turn that waits is settled when a sandbox is lost that brings it back": replaced({
    fateOfTurn: (session, onlyWaited) => rules.fateOfTurn({ ...session, restoring: false }, onlyWaited),
  }),
  "a prompt wakes a session that waits for people": replaced({ waitsForPeople: () => false }),
  "an interrupted turn waits on": replaced({ followCalls: withoutNews("interrupted") }),
  "a queue waits on when the turn of a session that was to rest is over": without("wakeAfterTurn"),
};

const snapshots: Record<string, Rules> = {
  "a snapshot of before the last turn becomes current": replaced({ isLastAsked: () => true }),
  "whatever arrives becomes the current snapshot": replaced({ isAskedFor: () => true, isLastAsked: () => true }),
  "the agent works on while its files are packed": without("stopAgentBeforePacking"),
  "a snapshot does not wait for what was said": without("flushBeforePacking"),
  "the runner leaves before its snapshot is committed": without("leaveAfterCommit"),
  "an archive is not read back": without("readBack"),
  "the pointer moves before the archive is there": without("pointAfterUpload"),
  "the old archive goes before the new pointer": without("removeOldAfterCommit"),
  "an archive whose commit is unknown is removed": without("askBeforeDiscarding"),
  "archives that nothing names are removed at once": replaced({ strandedMs: 0 }),
  "a runner says that its files are back before they are": without("reportAfterUnpacking"),
  "half of the files that were brought back is kept": without("emptyHalfRestored"),
  "half of the files goes while they may still be whole": without("emptyAfterRecovery"),
  "a fork shares the archive of its source": without("copyForFork"),
  "who is at work is put away": replaced({ isUnused: ({ desired }) => desired !== "end", onlyWaits: () => true }),
};

const lives: Record<string, Rules> = {
  "a new runner starts before the old one is ended": without("destroyBeforeNext"),
  "a sandbox that is not written down is neither taken back nor ended": replaced({
    order: { ...rules.order, destroyUnknown: false, takeBack: false },
  }),
  "an idle session is put away though it is to end": replaced({
    isUnused: (row, now, ms) => rules.isUnused({ ...row, desired: "run" }, now, ms),
  }),
  "a session whose lease has passed is not recovered": replaced({ nextStep: instead("recover", "wait") }),
  "the sandbox of a dormant session is left": replaced({ nextStep: instead("clear", "wait") }),
  "an end that was asked for is not forced": replaced({ nextStep: instead("force_end", "wait") }),
  "a parked session is not woken by a prompt": replaced({ isWokenByPrompt: (row) => !rules.isParked(row) && rules.isWokenByPrompt(row) }),
  "who is asked for stays parked": replaced({ wakened: (row, now) => rules.wakened({ ...row, parked_at: null }, now) }),
  "an end that fails too often is parked": replaced({ setback: parkWhatever, nextStep: whenNotParked }),
  "who is parked is tried on and on": replaced({ nextStep: (observed, ms) => rules.nextStep({ ...observed, parked: false }, ms) }),
  "a step that failed is never given up": replaced({ setback: (...given) => ({ ...rules.setback(...given), parks: false }) }),
  "a lifetime does not end": replaced({ nextStep: instead("expire", "wait") }),
  "the last reason to end wins": replaced({ wishToEnd: (_row, reason) => rules.wishToEnd({ desired: "run" }, reason) }),
  "an end that is wanted is forgotten when a session stays awake": replaced({
    keptAwake: (_row, now) => rules.keptAwake({ desired: "run" }, now),
  }),
  "an end that is wanted is forgotten when a session is not restored": replaced({
    notRestored: (_row, now) => rules.notRestored({ desired: "run" }, now),
  }),
  "deadlines are compared with the server's clock": without("useDatabaseClock"),
  "sessions are counted before the lock": without("countUnderLock"),
};

const money: Record<string, Rules> = {
  "the budget is compared off by one": replaced({
    capReached: (session, turn) => rules.capReached({ ...session, spentMicros: session.spentMicros - 1 }, turn),
  }),
  "turns are not counted": replaced({ capReached: (session) => rules.capReached(session, false) }),
  "a booking whose commit is unknown is made again": without("bookOnce"),
};

export const mutants: readonly Mutant[] = Object.entries({
  ...fencing,
  ...events,
  ...turns,
  ...waiting,
  ...snapshots,
  ...lives,
  ...money,
}).map(([name, rules]) => ({ name, rules }));

function sameEpoch(...[row, now, ms]: Parameters<Rules["launched"]>) {
  return { ...rules.launched(row, now, ms), epoch: Math.max(1, row.epoch) };
}

function skip(more: number): Rules["alreadyCommitted"] {
  return (last, first, count) => {
    const place = rules.alreadyCommitted(last, first, count);
    return "skip" in place && place.skip > 0 ? { skip: Math.max(0, Math.min(count, place.skip + more)) } : place;
  };
}

function keepNumbers(...[row, now, limits]: Parameters<Rules["attached"]>): ReturnType<Rules["attached"]> {
  const { last_runner_seq: _reset, ...kept } = rules.attached(row, now, limits);
  return kept as ReturnType<Rules["attached"]>;
}

function startAlways({ state, desired }: Parameters<Rules["placeOfPrompt"]>[0]): ReturnType<Rules["placeOfPrompt"]> {
  return { position: 0, starts: state === "running" && desired === "run" };
}

function instead(step: ReturnType<Rules["nextStep"]>, other: ReturnType<Rules["nextStep"]>): Rules["nextStep"] {
  return (observed, deadlines) => {
    const next = rules.nextStep(observed, deadlines);
    return next === step ? other : next;
  };
}

function parkWhatever(...[row, step, tries, at]: Parameters<Rules["setback"]>): ReturnType<Rules["setback"]> {
  const made = rules.setback(row, step, tries, at);
  return { ...made, parks: made.failures >= tries.stepTries };
}

function whenNotParked(...[observed, deadlines]: Parameters<Rules["nextStep"]>): ReturnType<Rules["nextStep"]> {
  return observed.parked ? "wait" : rules.nextStep(observed, deadlines);
}

function withoutNews(news: "agent_replaced" | "interrupted"): Rules["followCalls"] {
  return (unfinished, turn, event) => {
    if (event.news !== news) rules.followCalls(unfinished, turn, event);
  };
}
