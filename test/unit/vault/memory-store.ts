import type { Canary, UserKey, UserKeyState, VaultStore } from "../../../server/vault/store.ts";

export type MemoryRow = Omit<UserKey, "state"> & { userId: string; state: UserKeyState };

/** The vault's tables in memory, with the refusals of their constraints. Every call takes a turn of the event loop. */
export type MemoryStore = VaultStore<null> & {
  rows: MemoryRow[];
  canaryRows: Canary[];
  /** Calls that changed something. */
  writes: number;
  /** Calls of `listUserKeys`. */
  reads: number;
};

export function createMemoryStore(): MemoryStore {
  const turn = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve));
  const store: MemoryStore = {
    rows: [],
    canaryRows: [],
    writes: 0,
    reads: 0,
    async kidsInUse() {
      await turn();
      return [...new Set(store.rows.filter(({ state }) => state !== "destroyed").map(({ kid }) => kid))];
    },
    async listCanaries() {
      await turn();
      return [...store.canaryRows];
    },
    async addCanary(canary, knownKids) {
      await turn();
      const present = store.canaryRows.map(({ kid }) => kid);
      if (present.toSorted().join() !== [...knownKids].sort().join()) return false;
      store.canaryRows.push(canary);
      store.writes += 1;
      return true;
    },
    async listUserKeys(userId) {
      store.reads += 1;
      // Read now and delivered later: what changes in between is what a caller must cope with.
      const keys = store.rows.flatMap(({ userId: owner, state, ...key }) =>
        owner === userId && state !== "destroyed" ? [{ ...key, state }] : [],
      );
      await turn();
      return keys;
    },
    async insertUserKey(_, userId, version, key) {
      await turn();
      const taken = store.rows.some((row) => row.userId === userId && (row.version === version || row.state === "active"));
      if (taken) throw new Error("duplicate key value violates unique constraint");
      store.rows.push({ userId, version, state: "active", ...key });
      store.writes += 1;
    },
    async destroyUserKeys(_, userId) {
      await turn();
      for (const row of store.rows.filter((each) => each.userId === userId)) {
        row.wrapped = new Uint8Array(row.wrapped.length);
        row.state = "destroyed";
      }
      store.writes += 1;
    },
  };
  return store;
}
