import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import type { EnvelopeContext } from "../../../server/vault/context.ts";
import {
  createEnvelopeKey,
  ENVELOPE_OVERHEAD,
  type EnvelopeKey,
  openEnvelope,
  PURPOSES,
  type Purpose,
  sealEnvelope,
} from "../../../server/vault/envelope.ts";
import { ContextError, VaultError } from "../../../server/vault/errors.ts";
import { type CryptoProvider, createSodium } from "../../../server/vault/sodium.ts";

const USERS = ["6f1c2d3e-0000-4000-8000-00000000000a", "6f1c2d3e-0000-4000-8000-00000000000b", "00000000-0000-0000-0000-000000000000"];
// Close to each other on purpose: prefixes, shifted borders, case, length bytes and NUL inside the text.
const TEXTS = ["a", "ab", "b", "A", "aa", "a\u0000b", "\u0000\u0000\u0000\u0001a", "session"];
const GENERATIONS = [0, 1, 256, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER];
const VERSIONS = [1, 2, 256, 2 ** 32 - 1];
const PURPOSE_NAMES = Object.keys(PURPOSES) as Purpose[];
const HEADER_BYTES = 10;
/** For the tests that count to large numbers, on a busy machine. */
const LONG_MS = 60_000;

const CONTEXT: EnvelopeContext = { resourceType: "credential", resourceId: "c1", field: "secret", generation: 3 };
const PLAINTEXT = Buffer.from("a secret of some length");

type Place = { user: number; version: number; purpose: Purpose; context: EnvelopeContext };

const places = fc.record({
  user: fc.nat(USERS.length - 1),
  version: fc.constantFrom(...VERSIONS),
  purpose: fc.constantFrom(...PURPOSE_NAMES),
  context: fc.record({
    resourceType: fc.constantFrom(...TEXTS),
    resourceId: fc.constantFrom(...TEXTS),
    field: fc.constantFrom(...TEXTS),
    generation: fc.constantFrom(...GENERATIONS),
  }),
});

describe("an envelope", () => {
  let sodium: CryptoProvider;
  let dataKey: Uint8Array;
  let key: EnvelopeKey;

  beforeAll(async () => {
    sodium = await createSodium();
    dataKey = sodium.random(32);
    key = createEnvelopeKey(sodium, dataKey, USERS[0] ?? "", 1, "credential");
  });

  const opens = (withKey: EnvelopeKey, context: EnvelopeContext, envelope: Uint8Array): boolean => {
    try {
      return Buffer.from(openEnvelope(sodium, withKey, context, envelope)).equals(PLAINTEXT);
    } catch (error) {
      if (error instanceof VaultError && error.message === new VaultError().message) return false;
      throw error;
    }
  };

  /** One data key for all, so that only the binding keeps places apart: the hardest case. */
  function createPlaceKeys(): (place: Place) => EnvelopeKey {
    const keys = new Map<string, EnvelopeKey>();
    return ({ user, version, purpose }) => {
      const name = `${user} ${version} ${purpose}`;
      const known = keys.get(name) ?? createEnvelopeKey(sodium, dataKey, USERS[user] ?? "", version, purpose);
      keys.set(name, known);
      return known;
    };
  }

  it(
    "never opens in another place, as it is or with its header rewritten to fit (100,000 pairs)",
    () => {
      const keyOf = createPlaceKeys();
      const same = (one: Place, other: Place) => JSON.stringify(one) === JSON.stringify(other);
      let pairs = 0;
      fc.assert(
        fc.property(places, fc.array(places, { minLength: 10, maxLength: 10 }), (from, targets) => {
          const envelope = sealEnvelope(sodium, keyOf(from), from.context, PLAINTEXT);
          if (!opens(keyOf(from), from.context, envelope)) return false;
          return targets.every((to) => {
            pairs += 1;
            const disguised = Uint8Array.from(envelope);
            disguised.set(keyOf(to).header, 0);
            const moved = opens(keyOf(to), to.context, envelope) || opens(keyOf(to), to.context, disguised);
            return moved === same(from, to);
          });
        }),
        { numRuns: 10_000 },
      );
      expect(pairs).toBe(100_000);
    },
    LONG_MS,
  );

  it("never opens when exactly one thing of its place differs", () => {
    const keyOf = createPlaceKeys();
    const parts = ["user", "version", "purpose", "resourceType", "resourceId", "field", "generation"] as const;
    const merge = (from: Place, to: Place, part: (typeof parts)[number]): Place =>
      part === "user" || part === "version" || part === "purpose"
        ? { ...from, [part]: to[part] }
        : { ...from, context: { ...from.context, [part]: to.context[part] } };
    fc.assert(
      fc.property(places, places, fc.constantFrom(...parts), (from, to, part) => {
        const target = merge(from, to, part);
        fc.pre(JSON.stringify(target) !== JSON.stringify(from));
        const envelope = sealEnvelope(sodium, keyOf(from), from.context, PLAINTEXT);
        envelope.set(keyOf(target).header, 0);
        return !opens(keyOf(target), target.context, envelope);
      }),
      { numRuns: 5_000 },
    );
  });

  it("never opens under another data key of the same user, version and purpose", () => {
    const other = createEnvelopeKey(sodium, sodium.random(32), USERS[0] ?? "", 1, "credential");
    expect(opens(other, CONTEXT, sealEnvelope(sodium, key, CONTEXT, PLAINTEXT))).toBe(false);
  });

  it(
    "is refused with any one bit flipped (every bit of 50 envelopes)",
    () => {
      for (let number = 0; number < 50; number++) {
        const envelope = sealEnvelope(sodium, key, { ...CONTEXT, generation: number }, PLAINTEXT.subarray(0, number % 20));
        for (let bit = 0; bit < envelope.length * 8; bit++) {
          const mask = 1 << (bit % 8);
          envelope[bit >> 3] = (envelope[bit >> 3] ?? 0) ^ mask;
          expect(() => openEnvelope(sodium, key, { ...CONTEXT, generation: number }, envelope)).toThrow(VaultError);
          envelope[bit >> 3] = (envelope[bit >> 3] ?? 0) ^ mask;
        }
        expect(openEnvelope(sodium, key, { ...CONTEXT, generation: number }, envelope)).toHaveLength(number % 20);
      }
    },
    LONG_MS,
  );

  it("is refused cut at every length, and with anything after it or before it", () => {
    const envelope = sealEnvelope(sodium, key, CONTEXT, PLAINTEXT);
    for (let length = 0; length < envelope.length; length++) {
      expect(opens(key, CONTEXT, envelope.subarray(0, length))).toBe(false);
    }
    for (let extra = 1; extra <= 64; extra++) {
      expect(opens(key, CONTEXT, Buffer.concat([envelope, Buffer.alloc(extra)]))).toBe(false);
      expect(opens(key, CONTEXT, Buffer.concat([Buffer.alloc(extra), envelope]))).toBe(false);
    }
    expect(opens(key, CONTEXT, Buffer.concat([envelope, envelope]))).toBe(false);
  });

  it("is refused with the nonce, the commitment or the ciphertext of another envelope of the same place", () => {
    const one = sealEnvelope(sodium, key, CONTEXT, PLAINTEXT);
    const other = sealEnvelope(sodium, key, CONTEXT, PLAINTEXT);
    for (const [start, end] of [
      [10, 42],
      [42, 74],
      [74, one.length],
    ] as const) {
      const mixed = Uint8Array.from(one);
      mixed.set(other.subarray(start, end), start);
      expect(opens(key, CONTEXT, mixed)).toBe(false);
    }
  });

  it("checks the commitment before anything is decrypted", () => {
    const watched = { ...sodium, aeadOpen: () => expect.unreachable("the ciphertext was reached") };
    const envelope = sealEnvelope(sodium, key, CONTEXT, PLAINTEXT);
    expect(() => openEnvelope(watched, key, { ...CONTEXT, generation: 4 }, envelope)).toThrow(VaultError);
  });

  it("seals any bytes, 90 bytes longer, and leaves what it was given alone", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3_000 }), (plaintext) => {
        const before = Uint8Array.from(plaintext);
        const envelope = sealEnvelope(sodium, key, CONTEXT, plaintext);
        expect(plaintext).toEqual(before);
        expect(envelope).toHaveLength(plaintext.length + ENVELOPE_OVERHEAD);
        expect(Buffer.from(openEnvelope(sodium, key, CONTEXT, Buffer.from(envelope))).equals(plaintext)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it(
    "never repeats a nonce (1,000,000 envelopes)",
    () => {
      const count = 1_000_000;
      // 64 of the 256 bits are enough to see a repetition; by chance alone they would meet once in 10^7 runs.
      const seen = new BigUint64Array(count);
      for (let at = 0; at < count; at++) {
        const envelope = sealEnvelope(sodium, key, CONTEXT, PLAINTEXT.subarray(0, 1));
        seen[at] = Buffer.from(envelope.buffer).readBigUInt64LE(HEADER_BYTES);
      }
      seen.sort();
      expect(seen.findIndex((nonce, at) => at > 0 && nonce === seen[at - 1])).toBe(-1);
    },
    LONG_MS,
  );

  it("is not made when there is no randomness", () => {
    const broken = {
      ...sodium,
      random: () => {
        throw new Error("no entropy");
      },
    };
    expect(() => sealEnvelope(broken, key, CONTEXT, PLAINTEXT)).toThrow("no entropy");
  });

  it("is refused, not mistaken, for a context that cannot be bound", () => {
    const envelope = sealEnvelope(sodium, key, CONTEXT, PLAINTEXT);
    expect(() => openEnvelope(sodium, key, { ...CONTEXT, field: "" }, envelope)).toThrow(VaultError);
    expect(() => sealEnvelope(sodium, key, { ...CONTEXT, field: "" }, PLAINTEXT)).toThrow(ContextError);
  });

  it("needs a data key version from 1 to 2^32 - 1 and a user id that is a UUID", () => {
    for (const version of [0, -1, 1.5, 2 ** 32, Number.NaN]) {
      expect(() => createEnvelopeKey(sodium, dataKey, USERS[0] ?? "", version, "events")).toThrow(ContextError);
    }
    for (const userId of ["", "alice", `${USERS[0]} `, `${USERS[0]}\n`, USERS[0]?.replaceAll("-", "") ?? "", `{${USERS[0]}}`]) {
      expect(() => createEnvelopeKey(sodium, dataKey, userId, 1, "events")).toThrow(ContextError);
    }
  });
});
