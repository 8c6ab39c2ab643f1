import { describe, expect, it } from "vitest";
import { createRootKeyring } from "../../../server/vault/keyring.ts";
import { createSodium } from "../../../server/vault/sodium.ts";

const sodium = await createSodium();
const USER = "6f1c2d3e-0000-4000-8000-00000000000a";
const OTHER = "6f1c2d3e-0000-4000-8000-00000000000b";
const rootKey = (fill: number): Uint8Array => new Uint8Array(32).fill(fill);

describe("a root keyring", () => {
  const both = createRootKeyring(sodium, [rootKey(1), rootKey(2)]);
  const first = createRootKeyring(sodium, [rootKey(1)]);
  const second = createRootKeyring(sodium, [rootKey(2)]);
  const dataKey = sodium.random(32);

  it("wipes the root keys it is given", () => {
    const given = rootKey(7);
    createRootKeyring(sodium, [given]);
    expect(given).toEqual(new Uint8Array(32));
  });

  it("wraps under the first key and unwraps under any", () => {
    expect(both.wrap(USER, 1, dataKey).kid).toBe(first.activeKid);
    expect(both.unwrap(USER, 1, both.wrap(USER, 1, dataKey))).toEqual(dataKey);
    expect(both.unwrap(USER, 1, second.wrap(USER, 1, dataKey))).toEqual(dataKey);
  });

  it("unwraps nothing for another user, another version, or a key it does not have", () => {
    const stored = first.wrap(USER, 1, dataKey);
    expect(first.unwrap(OTHER, 1, stored)).toBeNull();
    expect(first.unwrap(USER, 2, stored)).toBeNull();
    expect(second.unwrap(USER, 1, stored)).toBeNull();
    expect(both.unwrap(USER, 1, { ...stored, kid: second.activeKid })).toBeNull();
  });

  it("unwraps nothing that was damaged in any bit or has another length", () => {
    const { kid, wrapped } = first.wrap(USER, 1, dataKey);
    expect(wrapped).toHaveLength(116);
    for (let bit = 0; bit < wrapped.length * 8; bit++) {
      const damaged = Uint8Array.from(wrapped);
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit % 8));
      expect(first.unwrap(USER, 1, { kid, wrapped: damaged })).toBeNull();
    }
    for (let length = 0; length < wrapped.length; length++) {
      expect(first.unwrap(USER, 1, { kid, wrapped: wrapped.subarray(0, length) })).toBeNull();
    }
    expect(first.unwrap(USER, 1, { kid, wrapped: new Uint8Array(wrapped.length) })).toBeNull();
    expect(first.unwrap(USER, 1, { kid, wrapped: Buffer.concat([wrapped, Buffer.alloc(1)]) })).toBeNull();
  });

  it("knows the canary of each of its keys and no other", () => {
    const canary = first.sealCanary();
    expect(both.opensCanary(first.activeKid, canary)).toBe(true);
    expect(both.opensCanary(second.activeKid, canary)).toBe(false);
    expect(second.opensCanary(first.activeKid, canary)).toBe(false);
    expect(first.opensCanary(first.activeKid, canary.subarray(1))).toBe(false);
    expect(first.opensCanary(first.activeKid, new Uint8Array())).toBe(false);
    expect(first.opensCanary(first.activeKid, first.wrap(USER, 1, dataKey).wrapped)).toBe(false);
  });

  it("hashes a token the same way each time, and otherwise under another key", () => {
    expect(first.hashToken("t")).toEqual(both.hashToken("t"));
    expect(first.hashToken("t")).toHaveLength(32);
    expect(first.hashToken("t")).not.toEqual(first.hashToken("u"));
    expect(first.hashToken("t")).not.toEqual(second.hashToken("t"));
    expect(first.hashToken("t")).not.toEqual(first.signUrl("t"));
  });

  it("verifies a URL signed under any of its keys, and nothing else", () => {
    expect(both.verifyUrl("/blob/1", second.signUrl("/blob/1"))).toBe(true);
    expect(first.verifyUrl("/blob/1", second.signUrl("/blob/1"))).toBe(false);
    expect(both.verifyUrl("/blob/2", second.signUrl("/blob/1"))).toBe(false);
    expect(both.verifyUrl("/blob/1", second.signUrl("/blob/1").subarray(1))).toBe(false);
    expect(both.verifyUrl("/blob/1", new Uint8Array())).toBe(false);
  });

  it("can do nothing with its keys once closed", () => {
    const closing = createRootKeyring(sodium, [rootKey(3)]);
    const stored = closing.wrap(USER, 1, dataKey);
    closing.close();
    expect(closing.unwrap(USER, 1, stored)).toBeNull();
  });

  it("cannot be made of no key at all", () => {
    expect(() => createRootKeyring(sodium, [])).toThrow("at least one key");
  });
});
