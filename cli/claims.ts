import { messageOf } from "../sdk/node.ts";
import { CliFailure } from "./failures.ts";

/** What the token says of itself, for display only: the server has just verified it. */
export function readClaims(token: string): { email?: string; exp?: number } {
  try {
    const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8")) as Record<string, unknown>;
    const { email, exp } = claims;
    return { ...(typeof email === "string" ? { email } : {}), ...(typeof exp === "number" && exp < 1e11 ? { exp } : {}) };
  } catch (error) {
    // Tokens of other issuers need not be readable.
    if (error instanceof SyntaxError) return {};
    throw new CliFailure(`cannot read the token: ${messageOf(error)}`);
  }
}
