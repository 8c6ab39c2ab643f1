import { VaultExpiredError } from "./errors.ts";
import type { UserVault } from "./user-vault.ts";

type Loaded = { vault: UserVault; wipe(): void };
type Cached = Loaded & { staleAt: number; expiry: NodeJS.Timeout };
type Loading = { result: Promise<UserVault>; state: { forgotten: boolean } };

export type KeyCache = {
  /** Concurrent calls for one user share one load; failures are not kept. */
  get(userId: string): Promise<UserVault>;
  forget(userId: string): void;
  close(): void;
};

/** No key stays unwrapped longer than this after it was read from the database. */
const LIFETIME_MS = 60_000;
/** From this age on a call loads anew, so that whoever is handed a vault has at least the rest of its life. */
const STALE_AFTER_MS = 30_000;

/**
 * Unwrapped keys by user. A key lives 60 s from its load however often it is used, because destroying the stored key
 * on one server must end its use on all of them by then.
 */
export function createKeyCache(options: { maxUsers: number; load(userId: string): Promise<Loaded> }): KeyCache {
  const cached = new Map<string, Cached>();
  const loading = new Map<string, Loading>();
  // Everything not wiped yet: the cached ones, and those a newer load has replaced but somebody may still be using.
  const alive = new Map<string, Set<Cached>>();
  let closed = false;

  function wipe(userId: string, entry: Cached): void {
    clearTimeout(entry.expiry);
    entry.wipe();
    if (cached.get(userId) === entry) cached.delete(userId);
    const ofUser = alive.get(userId);
    ofUser?.delete(entry);
    if (ofUser?.size === 0) alive.delete(userId);
  }

  function keep(userId: string, loaded: Loaded): void {
    const expiry = setTimeout(() => wipe(userId, entry), LIFETIME_MS).unref();
    const entry: Cached = { ...loaded, staleAt: performance.now() + STALE_AFTER_MS, expiry };
    const ofUser = alive.get(userId) ?? new Set();
    alive.set(userId, ofUser.add(entry));
    cached.delete(userId);
    cached.set(userId, entry);
    const oldest = cached.keys().next();
    if (cached.size > options.maxUsers && !oldest.done) wipeAll(oldest.value);
  }

  function wipeAll(userId: string): void {
    for (const entry of alive.get(userId) ?? []) wipe(userId, entry);
  }

  async function load(userId: string, state: { forgotten: boolean }): Promise<UserVault> {
    for (;;) {
      state.forgotten = false;
      const loaded = await options.load(userId);
      if (!closed && !state.forgotten) {
        keep(userId, loaded);
        return loaded.vault;
      }
      loaded.wipe();
      if (closed) throw new VaultExpiredError();
      // Forgotten while it was read, so perhaps read before the keys were destroyed: read again what is there now.
    }
  }

  function startLoading(userId: string): Promise<UserVault> {
    const state = { forgotten: false };
    const result = load(userId, state).finally(() => loading.delete(userId));
    loading.set(userId, { result, state });
    return result;
  }

  return {
    async get(userId) {
      if (closed) throw new VaultExpiredError();
      const entry = cached.get(userId);
      if (entry === undefined || entry.staleAt <= performance.now()) {
        return loading.get(userId)?.result ?? startLoading(userId);
      }
      // A Map keeps insertion order: put back last, the first is always the least recently asked for.
      cached.delete(userId);
      cached.set(userId, entry);
      return entry.vault;
    },
    forget(userId) {
      const inFlight = loading.get(userId);
      if (inFlight !== undefined) inFlight.state.forgotten = true;
      wipeAll(userId);
    },
    close() {
      closed = true;
      for (const userId of alive.keys()) wipeAll(userId);
    },
  };
}
