// What must be true of one log whatever happened to the processes around it. Pure: rows and events in, problems as sentences out.
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import { chainLink, emptyChain } from "../../server/journal/seal.ts";

/** An event as the table holds it. */
export type LogRow = { seq: number; epoch: number; runner_seq: number | null; payload: Uint8Array; chain: Buffer };

/** Numbers count from 1 without a hole, and the session counts as many. */
export function checkDense(rows: readonly LogRow[], lastSeq: number): string[] {
  const problems = rows.flatMap((row, index) => (row.seq === index + 1 ? [] : [`row ${index + 1} has seq ${row.seq}`]));
  return lastSeq === rows.length ? problems : [...problems, `the session counts ${lastSeq} events, the table ${rows.length}`];
}

export function checkEpochs(rows: readonly LogRow[]): string[] {
  const problems: string[] = [];
  let epoch = 0;
  for (const row of rows) {
    if (row.epoch < epoch) problems.push(`seq ${row.seq} is of epoch ${row.epoch}, after epoch ${epoch}`);
    epoch = Math.max(epoch, row.epoch);
  }
  return problems;
}

/** Each number of a runner at most once within its epoch. */
export function checkRunnerNumbersOnce(rows: readonly LogRow[]): string[] {
  const seen = new Set<string>();
  return rows.flatMap(({ seq, epoch, runner_seq }) => {
    const number = `${epoch}/${runner_seq}`;
    if (runner_seq === null) return [];
    const repeated = seen.has(number);
    seen.add(number);
    return repeated ? [`seq ${seq} repeats the runner's number ${number}`] : [];
  });
}

/** Within an epoch the runner's order is the log's. */
export function checkRunnerOrder(rows: readonly LogRow[]): string[] {
  const lastOf = new Map<number, number>();
  return rows.flatMap(({ seq, epoch, runner_seq }) => {
    if (runner_seq === null) return [];
    const last = lastOf.get(epoch) ?? 0;
    lastOf.set(epoch, runner_seq);
    return runner_seq < last ? [`seq ${seq} goes back in the runner's numbers: ${epoch}/${runner_seq} after ${last}`] : [];
  });
}

export function checkChain(rows: readonly LogRow[], head: Buffer): string[] {
  let chain: Uint8Array = emptyChain;
  for (const row of rows) {
    chain = chainLink(chain, row.seq, row.payload);
    if (!row.chain.equals(chain)) return [`the hash chain breaks at ${row.seq}`];
  }
  return head.equals(chain) ? [] : ["the session's chain is not that of its last event"];
}

export function checkEnd(events: readonly Event[], ended: boolean): string[] {
  const ends = events.filter((event) => event.payload?.kind.case === "sessionEnd");
  if (!ended) return ends.length === 0 ? [] : ["a live session has an end in its log"];
  return ends.length === 1 && events.at(-1) === ends[0]
    ? []
    : [`an ended session has ${ends.length} ends, and its last event is ${events.at(-1)?.payload?.kind.case}`];
}

/** Turns follow one another, each of one prompt, none twice; what the agent says and does is inside one. */
export function checkTurns(events: readonly Event[], ended: boolean): string[] {
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
  if (ended && open > 0 && !events.some(isInterruption)) problems.push(`turn ${open} neither ends nor is said to be interrupted`);
  return problems;
}

function isInterruption({ payload }: Event): boolean {
  return payload?.kind.case === "system" && payload.kind.value.subtype === "turn_interrupted";
}

export function checkPauses(events: readonly Event[]): string[] {
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

/** Each accepted prompt, by its request id, is in the log once, and no other is. */
export function checkPrompts(events: readonly Event[], prompts: readonly string[]): string[] {
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
