import { CredentialType } from "../../gen/carrel/v1/credential_pb.ts";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { refusal } from "../errors.ts";
import type { CredentialKind } from "./store.ts";

/** What a sandbox holds in place of the key. It has the provider's prefix because `claude` insists on it. */
const PHANTOM_PREFIX = "sk-ant-carrel-";

/** Throws INVALID_ARGUMENT for a key that no provider gave out. Its form is the contract's to check. */
export function checkApiKey(apiKey: string): void {
  if (apiKey.startsWith(PHANTOM_PREFIX)) {
    throw refusal(ErrorReason.INVALID_ARGUMENT, "this is a token of a Carrel session, not a key of the provider");
  }
}

export function credentialTypeOf(kind: CredentialKind): CredentialType {
  return kind === "api_key" ? CredentialType.API_KEY : CredentialType.OAUTH_TOKEN;
}
