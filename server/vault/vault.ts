import { uuidBytes } from "./context.ts";
import { RootKeyError, UserKeyMissingError, VaultError } from "./errors.ts";
import { createKeyCache } from "./key-cache.ts";
import type { RootKeyring } from "./keyring.ts";
import { type CryptoProvider, KEY_BYTES } from "./sodium.ts";
import type { Canary, UserKey, VaultStore } from "./store.ts";
import { createUserVault, type DataKey, type UserVault, type VaultAuditEvent } from "./user-vault.ts";

export type VaultDeps<Queries> = {
  sodium: CryptoProvider;
  keyring: RootKeyring;
  store: VaultStore<Queries>;
  /** Called synchronously; what it throws reaches the caller of `open` in place of the plaintext. */
  audit?: (event: VaultAuditEvent) => void;
  /** How many users' keys stay unwrapped; default 10,000, about 6 KB each. The least recently asked for go first. */
  maxCachedUsers?: number;
};

/** The keys of all users. It knows bytes and a context, nothing of what they are. `userId` is a UUID everywhere. */
export type Vault<Queries> = {
  /**
   * Refuses with `RootKeyError` a root key file that does not fit the database, before anything is written. The
   * first start, and the first with a new active root key beside the old ones, writes that key's canary.
   */
  verifyAtStart(): Promise<void>;
  /** Makes the user's first data key, in the caller's transaction. Rejects when the user has or had one. */
  createUserKey(queries: Queries, userId: string): Promise<void>;
  /**
   * The user's vault, good for at least 30 s and wiped after at most 60 s: ask where the work is done and do not keep
   * it. Rejects with `UserKeyMissingError`, with `RootKeyError` when a root key is not loaded, and with `VaultError`
   * when a stored key is not what was wrapped.
   */
  forUser(userId: string): Promise<UserVault>;
  /**
   * Destroys all data keys of the user in the caller's transaction. Call `forget` after the commit, here and on every
   * other server: until then a concurrent reader may unwrap the keys once more, for 60 s at the longest.
   */
  shredUser(queries: Queries, userId: string): Promise<void>;
  /** Wipes what is cached of the user; vaults handed out for the user stop working. */
  forget(userId: string): void;
  /** Wipes everything cached. The keyring stays its owner's to close. */
  close(): void;
};

const FIRST_VERSION = 1;
const DEFAULT_MAX_CACHED_USERS = 10_000;

export function createVault<Queries>(deps: VaultDeps<Queries>): Vault<Queries> {
  const { sodium, keyring, store } = deps;
  const cache = createKeyCache({
    maxUsers: deps.maxCachedUsers ?? DEFAULT_MAX_CACHED_USERS,
    load: async (userId) => createUserVault(deps, userId, unwrapAll(keyring, sodium, userId, await store.listUserKeys(userId))),
  });
  return {
    verifyAtStart: () => verifyAtStart(keyring, store),
    async createUserKey(queries, userId) {
      const dataKey = sodium.random(KEY_BYTES);
      const wrapped = keyring.wrap(userId, FIRST_VERSION, dataKey);
      sodium.memzero(dataKey);
      await store.insertUserKey(queries, userId, FIRST_VERSION, wrapped);
    },
    forUser: async (userId) => cache.get(canonical(userId)),
    async shredUser(queries, userId) {
      await store.destroyUserKeys(queries, canonical(userId));
      cache.forget(canonical(userId));
    },
    forget: (userId) => cache.forget(canonical(userId)),
    close: () => cache.close(),
  };
}

/** One spelling per user, so that a cached key is found, and forgotten, whatever the letter case. */
function canonical(userId: string): string {
  uuidBytes(userId);
  return userId.toLowerCase();
}

function unwrapAll(keyring: RootKeyring, sodium: CryptoProvider, userId: string, stored: readonly UserKey[]): DataKey[] {
  if (stored.length === 0) throw new UserKeyMissingError(userId);
  const unwrapped: DataKey[] = [];
  try {
    for (const key of stored) {
      if (!keyring.kids.includes(key.kid)) throw new RootKeyError(key.kid, "is not loaded and a data key needs it");
      const bytes = keyring.unwrap(userId, key.version, key);
      if (bytes === null) throw new VaultError();
      unwrapped.push({ version: key.version, active: key.state === "active", bytes });
    }
    return unwrapped;
  } catch (error) {
    for (const { bytes } of unwrapped) sodium.memzero(bytes);
    throw error;
  }
}

async function verifyAtStart<Queries>(keyring: RootKeyring, store: VaultStore<Queries>): Promise<void> {
  for (;;) {
    const canaries = await store.listCanaries();
    checkRootKeys(keyring, canaries, await store.kidsInUse());
    if (canaries.some(({ kid }) => kid === keyring.activeKid)) return;
    const canary = { kid: keyring.activeKid, envelope: keyring.sealCanary() };
    // False when another server added one meanwhile. Then that one must open too, so look again.
    if (
      await store.addCanary(
        canary,
        canaries.map(({ kid }) => kid),
      )
    )
      return;
  }
}

function checkRootKeys(keyring: RootKeyring, canaries: readonly Canary[], kidsInUse: readonly string[]): void {
  for (const { kid, envelope } of canaries) {
    if (!keyring.kids.includes(kid)) throw new RootKeyError(kid, "protects this database but is not in the key file");
    if (!keyring.opensCanary(kid, envelope)) throw new RootKeyError(kid, "does not open its canary");
  }
  for (const kid of kidsInUse) {
    if (!keyring.kids.includes(kid)) throw new RootKeyError(kid, "wraps data keys of users but is not in the key file");
  }
}
