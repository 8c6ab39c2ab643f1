// What becomes of a turn whose runner is lost.
import type { Change } from "../journal/journal.ts";
import { closeOpenPauses, openApproval } from "../journal/pauses.ts";
import { openEvent } from "../journal/seal.ts";
import { listEventRows, listOpenPauses } from "../journal/store.ts";
import { continueTurn, finishTurn, repeatTurn } from "../journal/turns.ts";
import { fateOfTurn } from "./rules.ts";

/**
 * A turn of which nothing had happened is repeated, one that only waited for people goes on and asks again, and any other ends
 * and says so: what its tools did must not be done twice. Whatever was asked was asked by the lost runner, and is closed.
 */
export async function settleTurn(change: Change): Promise<void> {
  const waited = await onlyWaited(change);
  await closeOpenPauses(change, "superseded");
  const fate = fateOfTurn(change.session, waited);
  if (fate === "none") return;
  if (fate === "asked_again") {
    const message = "the runner was lost while somebody was asked; the agent is told to ask again";
    change.append({ case: "system", value: { subtype: "asking_again", message } });
    return continueTurn(change, asksAgain);
  }
  if (fate === "repeated") return repeatTurn(change);
  const message = "the runner was lost in the middle of this turn; what its tools did stands";
  change.append({ case: "system", value: { subtype: "turn_interrupted", message } });
  await finishTurn(change, { success: false, subtype: "lost", summary: message, numTurns: 0 });
}

/** Said to the agent in the user's place. */
const asksAgain =
  "This session was restarted while a tool call waited for a person's answer. The call did not run. Go on with the task from there, and make the call again if it is still needed.";

/** Whether people were asked and nothing else is unfinished. A sub-agent that asked was at work, and is lost. */
async function onlyWaited({ tx, session, vault }: Change): Promise<boolean> {
  if (session.turn === 0 || session.pending_count === 0) return false;
  const unfinished = new Set<string>();
  for (let after = session.turn; ; ) {
    const rows = await listEventRows(tx, session.id, after, 200);
    for (const row of rows) {
      const kind = openEvent(vault, row).payload?.kind;
      if (kind?.case === "toolUse") unfinished.add(kind.value.id);
      if (kind?.case === "toolResult") unfinished.delete(kind.value.toolUseId);
    }
    const last = rows.at(-1);
    if (!last) break;
    after = last.seq;
  }
  const open = await listOpenPauses(tx, session.id);
  for (const { id } of open) unfinished.delete(id);
  const bySubAgent = open.some((pause) => pause.kind === "approval" && openApproval(vault, pause).parentToolUseId !== "");
  return unfinished.size === 0 && !bySubAgent;
}
