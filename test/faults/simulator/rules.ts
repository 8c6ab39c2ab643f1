// What the simulated world decides by: the production's own pure rules, and in which order effects follow each other where
// that is what matters. A planted bug is another value of one of these.
import { capReached } from "../../../server/broker/caps.ts";
import * as turns from "../../../server/journal/rules.ts";
import * as runners from "../../../server/runners/rules.ts";
import * as transitions from "../../../server/runners/transitions.ts";

/** Each is true in production. */
const order = {
  /** A runner is answered after its batch is committed. */
  acknowledgeAfterCommit: true,
  /** A runner forgets events when they are acknowledged, not when they are sent. */
  forgetAfterAcknowledgement: true,
  /** A runner writes events into its spool before it sends them. */
  spoolBeforeSending: true,
  /** What a lost runner left in its spool is read before anything is decided about its turn. */
  hearSpool: true,
  /** The sandboxes of a box are ended before its session is given to another runner, or ends. */
  destroyBeforeNext: true,
  /** Whatever runs over a box is ended, not only what its session knows of. */
  destroyUnknown: true,
  /** At the start of a server, sandboxes are taken back by the sessions that want them. */
  takeBack: true,
  /** A phantom token is compared, and not only whose it was. */
  comparePhantom: true,
  /** The agent rests while its files are packed. */
  stopAgentBeforePacking: true,
  /** What a runner has said is committed before its snapshot is sent. */
  flushBeforePacking: true,
  /** A runner leaves when its snapshot is committed, not when it is sent. */
  leaveAfterCommit: true,
  /** An archive is read back before it is committed. */
  readBack: true,
  /** The pointer moves when the whole archive is there. */
  pointAfterUpload: true,
  /** Old archives go when the new pointer is committed. */
  removeOldAfterCommit: true,
  /** An archive whose commit is unknown is removed only if no row names it. */
  askBeforeDiscarding: true,
  /** A runner says that its files are back when they are. */
  reportAfterUnpacking: true,
  /** A box that was lost while its files were brought back is not used again. */
  emptyHalfRestored: true,
  /** Nor is it removed before its runner has lost the right to say that everything is back. */
  emptyAfterRecovery: true,
  /** Readers are handed events after their commit. */
  publishAfterCommit: true,
  /** Commands meant for a lost runner are deleted. */
  deleteCommands: true,
  /** An answer that no agent can be told is kept for the same call asked again. */
  carryAnswers: true,
  /** A kept answer counts for one call. */
  dropCarried: true,
  /** What a stopped or lost agent asked is closed before another goes on. */
  closeBeforeAskingAgain: true,
  /** An agent that is still in a turn is not the one that is told to go on with it. */
  replaceBusyAgent: true,
  /** A session that was to rest while its turn waited goes on with its queue when the turn is over. */
  wakeAfterTurn: true,
  /** The answer to a request id is kept in the transaction of its work. */
  keepAnswerWithWork: true,
  /** A change made without the lock is written only if the row is still the same. */
  compareVersion: true,
  /** Sessions are counted under the lock of their owner. */
  countUnderLock: true,
  /** A fork has an archive of its own. */
  copyForFork: true,
  /** A runner skips commands that it has handled. */
  skipHandledCommands: true,
  /** A booking whose commit is unknown is compared before it is made again. */
  bookOnce: true,
  /** A prompt to a dormant session wakes it. */
  wakeOnPrompt: true,
  /** Deadlines are compared with the database's clock. */
  useDatabaseClock: true,
};

/** The first answer to an approval wins; the same once more is answered as the first. */
function isFirstAnswer(pause: { outcome: string | null }): boolean {
  return pause.outcome === null;
}

/** Where a reader goes on: after the last event it has seen. */
function resumeAfter(lastSeen: number): number {
  return lastSeen;
}

/** Age after which an archive that nothing names is removed, milliseconds: longer than any pause, and than clocks are off. */
const strandedMs = 60_000;

export const productionRules = { ...turns, ...runners, ...transitions, capReached, isFirstAnswer, resumeAfter, strandedMs, order };

/** One of the rules, or of the orders, replaced. */
export type Rules = typeof productionRules;
