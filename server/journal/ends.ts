import type { Change } from "./journal.ts";
import { wishToEnd } from "./rules.ts";
import { sealText } from "./seal.ts";
import type { EndReasonWord } from "./session-view.ts";

/** Asks for the end of a session, unless somebody has: the first reason wins. The reconciler carries it out. */
export function requestEnd(change: Change, reason: EndReasonWord, message: string): void {
  const wish = wishToEnd(change.session, reason);
  if (!wish) return;
  const sealed = message ? Buffer.from(sealText(change.vault, change.session.id, "error_message", message)) : null;
  change.set({ ...wish, error_message: sealed });
}
