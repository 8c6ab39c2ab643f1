import type { EnvelopeContext } from "./context.ts";
import { createEnvelopeKey, type EnvelopeKey, envelopeVersion, openEnvelope, type Purpose, sealEnvelope } from "./envelope.ts";
import { UserKeyMissingError, VaultError, VaultExpiredError } from "./errors.ts";
import type { CryptoProvider } from "./sodium.ts";

/** Something worth a line in the audit log. It carries the context and never a byte of the content. */
export type VaultAuditEvent = {
  /** `opened` is reported for purpose `credential` only; `open_failed` for every purpose. */
  kind: "opened" | "open_failed";
  userId: string;
  purpose: Purpose;
  context: EnvelopeContext;
};

/** Seals and opens for one user. Synchronous; every call throws `VaultExpiredError` once the keys are wiped. */
export type UserVault = {
  /** Seals under the user's active data key. Throws `ContextError` when the context cannot be bound. */
  seal(purpose: Purpose, context: EnvelopeContext, plaintext: Uint8Array): Uint8Array;
  /** Opens what was sealed under any data key the user still has. Throws `VaultError` for every failure alike. */
  open(purpose: Purpose, context: EnvelopeContext, envelope: Uint8Array): Uint8Array;
};

/** An unwrapped data key of 32 bytes. */
export type DataKey = { version: number; active: boolean; bytes: Uint8Array };

export type UserVaultDeps = { sodium: CryptoProvider; audit?: ((event: VaultAuditEvent) => void) | undefined };

type PurposeKeys = Readonly<Record<Purpose, EnvelopeKey>>;

/** A user vault of these data keys, and what wipes it. The data keys are wiped at once: only subkeys stay. */
export function createUserVault(
  { sodium, audit }: UserVaultDeps,
  userId: string,
  dataKeys: readonly DataKey[],
): { vault: UserVault; wipe(): void } {
  const versions = new Map<number, PurposeKeys>();
  for (const { version, bytes } of dataKeys) {
    versions.set(version, derivePurposeKeys(sodium, userId, version, bytes));
    sodium.memzero(bytes);
  }
  const sealing = versions.get(dataKeys.find(({ active }) => active)?.version ?? 0);
  if (sealing === undefined) throw new UserKeyMissingError(userId);
  let wiped = false;
  const vault: UserVault = {
    seal(purpose, context, plaintext) {
      if (wiped) throw new VaultExpiredError();
      return sealEnvelope(sodium, sealing[purpose], context, plaintext);
    },
    open(purpose, context, envelope) {
      if (wiped) throw new VaultExpiredError();
      const key = versions.get(envelopeVersion(envelope) ?? 0)?.[purpose];
      try {
        if (key === undefined) throw new VaultError();
        const plaintext = openEnvelope(sodium, key, context, envelope);
        if (purpose === "credential") audit?.({ kind: "opened", userId, purpose, context });
        return plaintext;
      } catch (error) {
        if (error instanceof VaultError) audit?.({ kind: "open_failed", userId, purpose, context });
        throw error;
      }
    },
  };
  const wipe = (): void => {
    wiped = true;
    for (const keys of versions.values()) for (const { subkey } of Object.values(keys)) sodium.memzero(subkey);
  };
  return { vault, wipe };
}

function derivePurposeKeys(sodium: CryptoProvider, userId: string, version: number, dataKey: Uint8Array): PurposeKeys {
  const derive = (purpose: Purpose): EnvelopeKey => createEnvelopeKey(sodium, dataKey, userId, version, purpose);
  return {
    credential: derive("credential"),
    mcp_config: derive("mcp_config"),
    environment: derive("environment"),
    profile_memory: derive("profile_memory"),
    events: derive("events"),
    archive: derive("archive"),
  };
}
