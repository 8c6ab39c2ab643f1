import { describe, expect, it } from "vitest";
import { RootKeyError } from "../../../server/vault/errors.ts";
import { createRootKeyring, type RootKeyring } from "../../../server/vault/keyring.ts";
import { createSodium } from "../../../server/vault/sodium.ts";
import { createVault } from "../../../server/vault/vault.ts";
import { createMemoryStore, type MemoryStore } from "./memory-store.ts";

const sodium = await createSodium();
const USER = "6f1c2d3e-0000-4000-8000-00000000000a";
const ring = (...fills: number[]): RootKeyring =>
  createRootKeyring(
    sodium,
    fills.map((fill) => new Uint8Array(32).fill(fill)),
  );
const start = (keyring: RootKeyring, store: MemoryStore) => createVault({ sodium, keyring, store }).verifyAtStart();

/** The key id a refused start names; nothing may have been written. */
async function refusedKid(keyring: RootKeyring, store: MemoryStore): Promise<string> {
  const { writes } = store;
  const error: unknown = await start(keyring, store).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(RootKeyError);
  expect((error as RootKeyError).message).toContain((error as RootKeyError).kid);
  expect(store.writes).toBe(writes);
  return (error as RootKeyError).kid;
}

describe("the vault at start", () => {
  it("writes a canary the first time and nothing after that", async () => {
    const store = createMemoryStore();
    await start(ring(1), store);
    expect(store.canaryRows.map(({ kid }) => kid)).toEqual([ring(1).activeKid]);
    await start(ring(1), store);
    await start(ring(1, 2), store);
    expect(store.writes).toBe(1);
  });

  it("refuses another root key than the database was started with", async () => {
    const store = createMemoryStore();
    await start(ring(1), store);
    expect(await refusedKid(ring(2), store)).toBe(ring(1).activeKid);
  });

  it("refuses a canary that is damaged or another key's", async () => {
    const store = createMemoryStore();
    store.canaryRows = [{ kid: ring(1).activeKid, envelope: ring(2).sealCanary() }];
    expect(await refusedKid(ring(1, 2), store)).toBe(ring(1).activeKid);
  });

  it("refuses when one of several root keys is missing, and takes them in any order", async () => {
    const store = createMemoryStore();
    await start(ring(1), store);
    await start(ring(2, 1), store);
    expect(store.canaryRows).toHaveLength(2);
    await start(ring(1, 2), store);
    expect(await refusedKid(ring(2), store)).toBe(ring(1).activeKid);
    expect(await refusedKid(ring(1), store)).toBe(ring(2).activeKid);
  });

  it("refuses when a data key in use needs a root key that is not loaded, canary or not", async () => {
    const store = createMemoryStore();
    await createVault({ sodium, keyring: ring(1), store }).createUserKey(null, USER);
    expect(await refusedKid(ring(2), store)).toBe(ring(1).activeKid);
    expect(store.canaryRows).toEqual([]);
  });

  it("asks nothing of root keys that wrap destroyed data keys only", async () => {
    const store = createMemoryStore();
    const vault = createVault({ sodium, keyring: ring(1), store });
    await vault.createUserKey(null, USER);
    await vault.shredUser(null, USER);
    await start(ring(2), store);
  });

  it("lets only one of two servers with different new keys start on an empty database", async () => {
    const store = createMemoryStore();
    const starts = await Promise.allSettled([start(ring(1), store), start(ring(2), store)]);
    expect(starts.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    expect(store.canaryRows).toHaveLength(1);
  });

  it("lets two servers with the same new key start on an empty database", async () => {
    const store = createMemoryStore();
    await Promise.all([start(ring(1), store), start(ring(1), store)]);
    expect(store.canaryRows).toHaveLength(1);
  });
});
