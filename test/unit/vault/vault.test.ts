import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { EnvelopeContext } from "../../../server/vault/context.ts";
import { ContextError, RootKeyError, UserKeyMissingError, VaultError, VaultExpiredError } from "../../../server/vault/errors.ts";
import { createRootKeyring } from "../../../server/vault/keyring.ts";
import { type CryptoProvider, createSodium } from "../../../server/vault/sodium.ts";
import type { VaultAuditEvent } from "../../../server/vault/user-vault.ts";
import { createVault, type Vault } from "../../../server/vault/vault.ts";
import { createMemoryStore, type MemoryStore } from "./memory-store.ts";

const sodium = await createSodium();
const ALICE = "6f1c2d3e-0000-4000-8000-00000000000a";
const BOB = "6f1c2d3e-0000-4000-8000-00000000000b";
const CONTEXT: EnvelopeContext = { resourceType: "credential", resourceId: "c1", field: "secret", generation: 1 };
const PLAINTEXT = Buffer.from("sk-test");

describe("the vault", () => {
  const keyring = createRootKeyring(sodium, [new Uint8Array(32).fill(1)]);
  let store: MemoryStore;
  let audited: VaultAuditEvent[];
  let vault: Vault<null>;

  const vaultWith = (options: { maxCachedUsers?: number; sodium?: CryptoProvider } = {}) =>
    createVault({ sodium, keyring, store, audit: (event) => audited.push(event), ...options });

  beforeEach(async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
    store = createMemoryStore();
    audited = [];
    vault = vaultWith();
    await vault.createUserKey(null, ALICE);
    await vault.createUserKey(null, BOB);
  });
  afterEach(() => {
    vault.close();
    vi.useRealTimers();
  });

  /** Gives a user a second data key, as a rotation would. */
  function rotate(userId: string, oldState: "decrypt_only" | "destroyed"): void {
    for (const row of store.rows) if (row.userId === userId) row.state = oldState;
    store.rows.push({ userId, version: 2, state: "active", ...keyring.wrap(userId, 2, sodium.random(32)) });
    vault.forget(userId);
  }

  it("opens for a user what was sealed for that user, and nothing of another", async () => {
    const envelope = (await vault.forUser(ALICE)).seal("credential", CONTEXT, PLAINTEXT);
    expect(Buffer.from((await vault.forUser(ALICE)).open("credential", CONTEXT, envelope))).toEqual(PLAINTEXT);
    const bob = await vault.forUser(BOB);
    expect(() => bob.open("credential", CONTEXT, envelope)).toThrow(VaultError);
  });

  it("keeps purposes apart", async () => {
    const alice = await vault.forUser(ALICE);
    const envelope = alice.seal("credential", CONTEXT, PLAINTEXT);
    for (const purpose of ["mcp_config", "environment", "profile_memory", "events", "archive"] as const) {
      expect(() => alice.open(purpose, CONTEXT, envelope)).toThrow(VaultError);
    }
  });

  it("seals under the active data key and still opens what older ones sealed", async () => {
    const old = (await vault.forUser(ALICE)).seal("events", CONTEXT, PLAINTEXT);
    rotate(ALICE, "decrypt_only");
    const alice = await vault.forUser(ALICE);
    const fresh = alice.seal("events", CONTEXT, PLAINTEXT);
    expect([old, fresh].map((envelope) => Buffer.from(envelope).readUInt32BE(6))).toEqual([1, 2]);
    for (const envelope of [old, fresh]) expect(Buffer.from(alice.open("events", CONTEXT, envelope))).toEqual(PLAINTEXT);
    old[9] = 2;
    expect(() => alice.open("events", CONTEXT, old)).toThrow(VaultError);
  });

  it("does not open what a destroyed data key sealed", async () => {
    const old = (await vault.forUser(ALICE)).seal("events", CONTEXT, PLAINTEXT);
    rotate(ALICE, "destroyed");
    const alice = await vault.forUser(ALICE);
    expect(() => alice.open("events", CONTEXT, old)).toThrow(VaultError);
  });

  it("refuses ids that are no UUIDs and users without a key", async () => {
    await expect(vault.createUserKey(null, "alice")).rejects.toThrow(ContextError);
    await expect(vault.forUser("alice")).rejects.toThrow(ContextError);
    await expect(vault.forUser("00000000-0000-4000-8000-000000000000")).rejects.toThrow(UserKeyMissingError);
    await expect(vault.createUserKey(null, ALICE)).rejects.toThrow();
  });

  it("refuses stored keys that were exchanged between users or belong to a root key that is not loaded", async () => {
    const [first, second] = store.rows;
    if (first === undefined || second === undefined) throw new Error("two users expected");
    [first.wrapped, second.wrapped] = [second.wrapped, first.wrapped];
    await expect(vault.forUser(ALICE)).rejects.toThrow(VaultError);
    first.kid = "0011223344556677";
    await expect(vault.forUser(ALICE)).rejects.toThrow(new RootKeyError("0011223344556677", "is not loaded and a data key needs it"));
  });

  it("reports every opened credential and every failure, and nothing else", async () => {
    const alice = await vault.forUser(ALICE);
    const credential = alice.seal("credential", CONTEXT, PLAINTEXT);
    const event = alice.seal("events", CONTEXT, PLAINTEXT);
    alice.open("events", CONTEXT, event);
    expect(audited).toEqual([]);
    alice.open("credential", CONTEXT, credential);
    expect(() => alice.open("events", CONTEXT, credential)).toThrow(VaultError);
    expect(() => alice.open("credential", CONTEXT, new Uint8Array())).toThrow(VaultError);
    const about = { userId: ALICE, context: CONTEXT };
    expect(audited).toEqual([
      { ...about, kind: "opened", purpose: "credential" },
      { ...about, kind: "open_failed", purpose: "events" },
      { ...about, kind: "open_failed", purpose: "credential" },
    ]);
  });

  it("gives no credential out when it cannot be reported", async () => {
    const failing = createVault({
      sodium,
      keyring,
      store,
      audit: () => {
        throw new Error("audit is full");
      },
    });
    const alice = await failing.forUser(ALICE);
    expect(() => alice.open("credential", CONTEXT, alice.seal("credential", CONTEXT, PLAINTEXT))).toThrow("audit is full");
    failing.close();
  });

  it("reads a user's keys once for many callers at once, in whatever letter case", async () => {
    const vaults = await Promise.all(Array.from({ length: 50 }, (_, at) => vault.forUser(at % 2 ? ALICE : ALICE.toUpperCase())));
    expect(new Set(vaults).size).toBe(1);
    expect(store.reads).toBe(1);
  });

  it("does not remember a failure", async () => {
    const carol = "6f1c2d3e-0000-4000-8000-00000000000c";
    await expect(vault.forUser(carol)).rejects.toThrow(UserKeyMissingError);
    await vault.createUserKey(null, carol);
    await vault.forUser(carol);
  });

  it("hands out keys with at least half a minute to live, and wipes them a minute after they were read", async () => {
    const early = await vault.forUser(ALICE);
    vi.advanceTimersByTime(29_999);
    expect(await vault.forUser(ALICE)).toBe(early);
    vi.advanceTimersByTime(1);
    const late = await vault.forUser(ALICE);
    expect(late).not.toBe(early);
    vi.advanceTimersByTime(29_999);
    const envelope = early.seal("events", CONTEXT, PLAINTEXT);
    vi.advanceTimersByTime(1);
    expect(() => early.seal("events", CONTEXT, PLAINTEXT)).toThrow(VaultExpiredError);
    expect(() => early.open("events", CONTEXT, envelope)).toThrow(VaultExpiredError);
    expect(Buffer.from(late.open("events", CONTEXT, envelope))).toEqual(PLAINTEXT);
    expect(store.reads).toBe(2);
  });

  it("keeps no more users than it was told to, the least recently used going first", async () => {
    const small = vaultWith({ maxCachedUsers: 2 });
    const carol = "6f1c2d3e-0000-4000-8000-00000000000c";
    await small.createUserKey(null, carol);
    const alice = await small.forUser(ALICE);
    const bob = await small.forUser(BOB);
    await small.forUser(ALICE);
    await small.forUser(carol);
    expect(() => bob.seal("events", CONTEXT, PLAINTEXT)).toThrow(VaultExpiredError);
    alice.seal("events", CONTEXT, PLAINTEXT);
    small.close();
  });

  it("overwrites the key bytes it held with zeros", async () => {
    const derived: Uint8Array[] = [];
    const watched = vaultWith({
      sodium: { ...sodium, deriveKey: (...args) => derived[derived.push(sodium.deriveKey(...args)) - 1] ?? new Uint8Array() },
    });
    await watched.forUser(ALICE);
    expect(derived).toHaveLength(6);
    expect(derived.every((key) => key.some((byte) => byte !== 0))).toBe(true);
    vi.advanceTimersByTime(60_000);
    expect(derived.every((key) => key.every((byte) => byte === 0))).toBe(true);
  });

  it("keeps no data key, once its purpose keys are derived or it is wrapped", async () => {
    const dataKeys: Uint8Array[] = [];
    const record = <T extends Uint8Array | null>(bytes: T): T => {
      if (bytes?.length === 32) dataKeys.push(bytes);
      return bytes;
    };
    const watching: CryptoProvider = {
      ...sodium,
      random: (length) => record(sodium.random(length)),
      aeadOpen: (...args) => record(sodium.aeadOpen(...args)),
    };
    const watchedRing = createRootKeyring({ ...watching, random: sodium.random }, [new Uint8Array(32).fill(1)]);
    const watched = createVault({ sodium: watching, keyring: watchedRing, store });
    const carol = "6f1c2d3e-0000-4000-8000-00000000000c";
    await watched.createUserKey(null, carol);
    await watched.forUser(carol);
    expect(dataKeys).toEqual([new Uint8Array(32), new Uint8Array(32)]);
    watched.close();
  });

  it("shreds a user for good and leaves others alone", async () => {
    const alice = await vault.forUser(ALICE);
    const bob = await vault.forUser(BOB);
    const envelope = alice.seal("credential", CONTEXT, PLAINTEXT);
    await vault.shredUser(null, ALICE);
    const row = store.rows.find(({ userId }) => userId === ALICE);
    expect(row).toMatchObject({ state: "destroyed", wrapped: new Uint8Array(116) });
    expect(() => alice.open("credential", CONTEXT, envelope)).toThrow(VaultExpiredError);
    await expect(vault.forUser(ALICE)).rejects.toThrow(UserKeyMissingError);
    await expect(vault.createUserKey(null, ALICE)).rejects.toThrow();
    bob.seal("events", CONTEXT, PLAINTEXT);
  });

  it("does not serve keys that were read before the user was forgotten", async () => {
    const inFlight = vault.forUser(ALICE);
    await Promise.resolve();
    for (const row of store.rows) if (row.userId === ALICE) row.state = "destroyed";
    vault.forget(ALICE);
    await expect(inFlight).rejects.toThrow(UserKeyMissingError);
    expect(store.reads).toBe(2);
  });

  it("serves nothing once closed", async () => {
    const alice = await vault.forUser(ALICE);
    const inFlight = vault.forUser(BOB);
    vault.close();
    expect(() => alice.seal("events", CONTEXT, PLAINTEXT)).toThrow(VaultExpiredError);
    await expect(inFlight).rejects.toThrow(VaultExpiredError);
    await expect(vault.forUser(ALICE)).rejects.toThrow(VaultExpiredError);
  });
});
