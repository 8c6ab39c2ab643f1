import type { Kysely } from "kysely";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { openSecret } from "./seal.ts";
import { type CredentialKind, findSealed } from "./store.ts";

/** A credential for one use. `secret` is the caller's own copy; `release` wipes it, once or more often. */
type OpenedCredential = { kind: CredentialKind; secret: Buffer; release(): void };

export type OpenedCredentials = {
  /**
   * The user's credential; undefined when none is stored. Rejects with what the vault throws when it does not open.
   * A change made by another server is seen after 5 s, one of this process at once.
   */
  open(userId: string): Promise<OpenedCredential | undefined>;
  /** Call it after a change of the user's credential is committed. */
  forget(userId: string): void;
  /** Wipes what is held. */
  close(): void;
};

type Secret = { kind: CredentialKind; secret: Buffer };
type Held = Secret & { expiry: NodeJS.Timeout };

const LIFETIME_MS = 5_000;

/** Holds opened secrets for 5 s, so that a busy session does not pay a query and a decryption for every request. */
export function createOpenedCredentials(deps: {
  db: Kysely<Database>;
  userVault: (userId: string) => Promise<UserVault>;
}): OpenedCredentials {
  const held = new Map<string, Held>();
  let changes = 0;

  function wipe(userId: string): void {
    const entry = held.get(userId);
    if (!entry) return;
    clearTimeout(entry.expiry);
    entry.secret.fill(0);
    held.delete(userId);
  }

  function hold(userId: string, { kind, secret }: Secret): void {
    wipe(userId);
    const expiry = setTimeout(() => wipe(userId), LIFETIME_MS).unref();
    held.set(userId, { kind, secret: Buffer.from(secret), expiry });
  }

  return {
    async open(userId) {
      const entry = held.get(userId);
      if (entry) return lend({ kind: entry.kind, secret: Buffer.from(entry.secret) });
      const changesBefore = changes;
      const sealed = await findSealed(deps.db, userId);
      if (!sealed) return undefined;
      const opened = { kind: sealed.kind, secret: openSecret(await deps.userVault(userId), userId, sealed) };
      // What was read before a change, anybody's, is still good for the call that asked before it, but for no later one.
      if (changes === changesBefore) hold(userId, opened);
      return lend(opened);
    },
    forget(userId) {
      changes += 1;
      wipe(userId);
    },
    close() {
      changes += 1;
      for (const userId of [...held.keys()]) wipe(userId);
    },
  };
}

function lend({ kind, secret }: Secret): OpenedCredential {
  return { kind, secret, release: () => void secret.fill(0) };
}
