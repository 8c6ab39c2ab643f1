import type { UserVault } from "../vault/user-vault.ts";
import type { SealedCredential } from "./store.ts";

/** Seals `secret` as this generation of the user's credential. The caller wipes `secret`. */
export function sealSecret(vault: UserVault, userId: string, generation: number, secret: Uint8Array): Uint8Array {
  return vault.seal("credential", contextOf(userId, generation), secret);
}

/** The secret in a buffer of its own, for the caller to wipe. Throws what `UserVault.open` throws. */
export function openSecret(vault: UserVault, userId: string, sealed: SealedCredential): Buffer {
  const opened = vault.open("credential", contextOf(userId, sealed.generation), sealed.envelope);
  return Buffer.from(opened.buffer, opened.byteOffset, opened.byteLength);
}

function contextOf(userId: string, generation: number) {
  return { resourceType: "credential", resourceId: userId, field: "secret", generation };
}
