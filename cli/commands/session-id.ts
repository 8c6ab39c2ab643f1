import { usageFailure } from "../failures.ts";

/** The id of a session as it was typed, or what is wrong with it. */
export function checkSessionId(id: string | undefined): string {
  if (!id) throw usageFailure("which session?", "see which there are: carrel session list");
  if (!/^ses_[0-9a-f]{32}$/.test(id)) throw usageFailure(`not the id of a session: ${id}`, "see which there are: carrel session list");
  return id;
}
