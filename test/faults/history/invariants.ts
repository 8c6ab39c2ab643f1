// The invariants of assurance §4.6, and how each is checked. What no history can show is said to be somebody else's.
import type { Evidence } from "./evidence.ts";
import { forksChangeNothing, nothingIsLeft, pointersHold, usersAreAlone, workspaceIsTheLast } from "./files-invariants.ts";
import {
  converges,
  drains,
  edges,
  ledgerAgrees,
  nothingStuck,
  readersCatchUp,
  spoolsDrain,
  withinBudget,
  withinCaps,
} from "./life-invariants.ts";
import { dense, durable, epochsGrow, once, ordered, promptsOnce, readersAgree, singleWriter, turnsFollow } from "./log-invariants.ts";
import type { Damage, Find } from "./violation.ts";

type Invariant = {
  id: string;
  what: string;
  find: Find;
  /** What of it a history cannot show, and who checks that. */
  besides?: string;
};

export const invariants: readonly Invariant[] = [
  {
    id: "I1",
    what: "what was acknowledged is in the log",
    find: durable,
    besides: "a real runner's own acknowledgements are seen by the storage faults and the simulator only",
  },
  { id: "I2", what: "each of a runner's events, and each turn's work, at most once", find: once },
  { id: "I3", what: "numbers are dense, and the hash chain holds", find: dense },
  { id: "I4", what: "a runner's order is the log's", find: ordered },
  { id: "I5", what: "epochs never go back in a log", find: epochsGrow },
  {
    id: "I6",
    what: "nothing of an epoch is accepted once a later one exists",
    find: singleWriter,
    besides: "between two samples only the simulator sees it; tokens of the past are used by the test of stopped runners",
  },
  { id: "I7", what: "a prompt is in the log once for its request id", find: promptsOnce },
  { id: "I8", what: "a reader is shown the log, without a hole, from where it asked", find: readersAgree },
  {
    id: "I9",
    what: "states change along their edges, and the end is final",
    find: edges,
    besides: "edges inside one view (running, hibernating, ending) are the simulator's",
  },
  { id: "I9b", what: "turns and pauses open and close in order", find: turnsFollow },
  { id: "I10", what: "caps of sessions and profiles hold, with one default", find: withinCaps },
  { id: "I11", what: "budget, turns and lifetime are kept within one answer", find: withinBudget },
  {
    id: "I12",
    what: "the tally is the sum of the log, and nothing is billed twice",
    find: ledgerAgrees,
    besides: "an answer that came through in the moment its control plane was killed is not billed; the run counts them",
  },
  { id: "I13", what: "what is brought back is the last that was kept", find: workspaceIsTheLast },
  { id: "I14", what: "a fork changes nothing in its source and shares no secret with it", find: forksChangeNothing },
  { id: "I15", what: "a snapshot's archive is there and is what was stored", find: pointersHold },
  { id: "I16", what: "nothing of a session outlives it on the machine", find: nothingIsLeft },
  { id: "I17", what: "no two sandboxes run as one user", find: usersAreAlone },
  { id: "L1", what: "every session comes to rest within 60 s", find: converges },
  { id: "L2", what: "spools are empty within 30 s", find: spoolsDrain },
  { id: "L3", what: "readers have caught up within 5 s", find: readersCatchUp },
  { id: "L4", what: "no claim, lock or command is stuck", find: nothingStuck },
  { id: "L5", what: "a server that is told to stop is gone within 30 s", find: drains },
];

export type Violation = { invariant: string; damage: Damage; message: string };

/** Everything that is wrong with a history. */
export function judge(evidence: Evidence): Violation[] {
  return invariants.flatMap(({ id, find }) => find(evidence).map((one) => ({ invariant: id, ...one })));
}
