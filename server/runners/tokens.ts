import { randomBytes } from "node:crypto";

/**
 * The three secrets of a sandbox. Each opens one door only, each is stored as a keyed hash only, and their prefixes keep
 * them from being taken for one another or for a person's token.
 */
const prefixes = {
  /** Worth one Attach. */
  attach: "cat_",
  /** The bearer of a runner's calls for one epoch. */
  lease: "clt_",
  /** What the agent shows the model gateway; formed like a provider key because the agent expects one. */
  phantom: "sk-ant-carrel-",
} as const;

export function newToken(kind: keyof typeof prefixes): string {
  return prefixes[kind] + randomBytes(32).toString("base64url");
}
