// What becomes of a turn whose runner is lost.
import type { Event } from "../../gen/carrel/v1/event_pb.ts";
import type { Change } from "../journal/journal.ts";
import { closeOpenPauses, openApproval } from "../journal/pauses.ts";
import { waitsForPeople } from "../journal/rules.ts";
import { openEvent } from "../journal/seal.ts";
import { listEventRows, listOpenPauses } from "../journal/store.ts";
import { askAgain, askingAgain, finishTurn, interrupting, repeatTurn } from "../journal/turns.ts";
import { type CallNews, fateOfTurn, followCalls, onlyWaits } from "./rules.ts";

/**
 * A turn of which nothing had happened is repeated, one that only waited for people goes on and asks again, and any other ends
 * and says so: what its tools did must not be done twice. Whatever was asked was asked by the lost runner, and is closed.
 */
export async function settleTurn(change: Change): Promise<void> {
  const fate = fateOfTurn(change.session, await isOnlyWaiting(change));
  if (fate === "kept") return;
  if (fate === "asked_again") return askAgain(change, "the runner was lost while somebody was asked; the agent is told to ask again");
  await closeOpenPauses(change, "superseded");
  if (fate === "none") return;
  if (fate === "repeated") return repeatTurn(change);
  const message = "the runner was lost in the middle of this turn; what its tools did stands";
  change.append({ case: "system", value: { subtype: "turn_interrupted", message } });
  await finishTurn(change, { success: false, subtype: "lost", summary: message, numTurns: 0 });
}

/** Whether the turn waits for people and for nothing else, by its log. */
export async function isOnlyWaiting({ tx, session, vault }: Change): Promise<boolean> {
  if (!waitsForPeople(session)) return false;
  const unfinished = new Set<string>();
  for (let after = session.turn; ; ) {
    const rows = await listEventRows(tx, session.id, after, 200);
    for (const row of rows) followCalls(unfinished, session.turn, { turn: row.turn, news: newsOf(openEvent(vault, row)) });
    const last = rows.at(-1);
    if (!last) break;
    after = last.seq;
  }
  const open = (await listOpenPauses(tx, session.id)).map((pause) => ({
    call: pause.id,
    isOfSubAgent: pause.kind === "approval" && openApproval(vault, pause).parentToolUseId !== "",
  }));
  return onlyWaits(session, unfinished, open);
}

const newsOfNotices = new Map<string, CallNews["news"]>([
  [askingAgain, "agent_replaced"],
  [interrupting, "interrupted"],
]);

function newsOf({ payload }: Event): CallNews["news"] {
  const kind = payload?.kind;
  if (kind?.case === "toolUse") return { begun: kind.value.id };
  if (kind?.case === "toolResult") return { done: kind.value.toolUseId };
  return kind?.case === "system" ? newsOfNotices.get(kind.value.subtype) : undefined;
}
