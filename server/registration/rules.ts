import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";

/**
 * Throws EMAIL_REQUIRED or EMAIL_DOMAIN_NOT_ALLOWED unless a person with this address may open an account.
 * An empty list lets everybody in, also without an address.
 */
export function checkMayRegister(email: string | undefined, allowedDomains: readonly string[]): void {
  if (allowedDomains.length === 0) return;
  if (email === undefined) {
    throw refusal(ErrorReason.EMAIL_REQUIRED, "sign in with a token that carries your verified e-mail address");
  }
  const domain = domainOf(email);
  if (allowedDomains.some((allowed) => foldCase(allowed) === domain)) return;
  throw refusal(ErrorReason.EMAIL_DOMAIN_NOT_ALLOWED, `addresses of ${domain} may not register here`, { domain });
}

/** What follows the last `@`, in lower case: a quoted local part may hold one too. */
function domainOf(email: string): string {
  return foldCase(email.slice(email.lastIndexOf("@") + 1));
}

/** ASCII only. Unicode folding would let a look-alike in: U+212A, the Kelvin sign, folds to `k`. */
function foldCase(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}
