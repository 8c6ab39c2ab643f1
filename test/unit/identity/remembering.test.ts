import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { untilExpiry } from "../../../server/identity/expiry.ts";
import type { Principal } from "../../../server/identity/principal.ts";
import { unauthenticated } from "../../../server/identity/refusals.ts";
import { createTtlCache } from "../../../server/identity/ttl-cache.ts";
import { createUserDirectory } from "../../../server/identity/user-directory.ts";
import { createTokenVerifier } from "../../../server/identity/verify.ts";
import { outcomeOf } from "./problem-of.ts";

const person: Principal = { issuer: "carrel", subject: "a@b.example", email: undefined, operator: false, expiresAt: 0 };

function tokenOf(name: string): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "EdDSA" })}.${part({ iss: "carrel", name })}.AAAA`;
}

describe("a verified token", () => {
  function verifier(expiresAt: number) {
    const state = { now: 0, checks: 0, refuse: false };
    const verify = createTokenVerifier(
      [
        {
          issuer: "carrel",
          verify: async () => {
            state.checks += 1;
            if (state.refuse) throw unauthenticated("bad_signature");
            return { ...person, expiresAt };
          },
        },
      ],
      () => state.now,
    );
    return { state, verify };
  }

  it("is not checked again for a minute", async () => {
    const { state, verify } = verifier(3_600_000);
    for (state.now = 0; state.now < 60_000; state.now += 10_000) await verify(tokenOf("a"));
    expect(state.checks).toBe(1);
    await verify(tokenOf("a"));
    expect(state.checks).toBe(2);
  });

  it("is checked again from its expiry on", async () => {
    const { state, verify } = verifier(5_000);
    await verify(tokenOf("a"));
    state.now = 5_000;
    await verify(tokenOf("a"));
    expect(state.checks).toBe(2);
  });

  it("does not vouch for another, and a refused one is not remembered", async () => {
    const { state, verify } = verifier(3_600_000);
    await verify(tokenOf("a"));
    state.refuse = true;
    expect(await outcomeOf(verify(tokenOf("b")))).toBe("UNAUTHENTICATED bad_signature");
    expect(await outcomeOf(verify(tokenOf("a")))).toBe("accepted");
    state.refuse = false;
    expect(await outcomeOf(verify(tokenOf("b")))).toBe("accepted");
  });
});

describe("a bounded cache", () => {
  it("drops the least recently used entry first, and each at its time", () => {
    let now = 0;
    const cache = createTtlCache<number>(2, () => now);
    cache.set("a", 1, 10);
    cache.set("b", 2, 20);
    expect(cache.get("a")).toBe(1);
    cache.set("c", 3, 20);
    expect([cache.get("a"), cache.get("b"), cache.get("c")]).toEqual([1, undefined, 3]);
    now = 10;
    expect([cache.get("a"), cache.get("c")]).toEqual([undefined, 3]);
  });
});

describe("the directory of users", () => {
  function directory() {
    const registered = new Map<string, string>();
    const state = { now: 0, lookUps: 0, fail: false };
    const users = createUserDirectory(
      async (_issuer, subject) => {
        state.lookUps += 1;
        const found = registered.get(subject);
        await Promise.resolve();
        if (state.fail) throw new Error("database away");
        return found;
      },
      () => state.now,
    );
    return { registered, state, users };
  }

  it("remembers a registered person for five seconds", async () => {
    const { registered, state, users } = directory();
    registered.set("a", "id-a");
    for (state.now = 0; state.now < 5_000; state.now += 1_000) expect(await users.find("carrel", "a")).toBe("id-a");
    expect(state.lookUps).toBe(1);
    await users.find("carrel", "a");
    expect(state.lookUps).toBe(2);
  });

  it("asks again for somebody who was not registered", async () => {
    const { registered, users } = directory();
    expect(await users.find("carrel", "a")).toBeUndefined();
    registered.set("a", "id-a");
    expect(await users.find("carrel", "a")).toBe("id-a");
  });

  it("shares one look-up, but not with who asks after a registration", async () => {
    const { registered, state, users } = directory();
    const before = [users.find("carrel", "a"), users.find("carrel", "a")];
    expect(state.lookUps).toBe(1);
    registered.set("a", "id-a");
    users.forget("carrel", "a");
    const after = users.find("carrel", "a");
    expect(await Promise.all([...before, after])).toEqual([undefined, undefined, "id-a"]);
    expect(await users.find("carrel", "a")).toBe("id-a");
    expect(state.lookUps).toBe(2);
  });

  it("does not remember a failure, nor mistake one issuer's person for another's", async () => {
    const { registered, state, users } = directory();
    registered.set("a", "id-a");
    state.fail = true;
    await expect(users.find("carrel", "a")).rejects.toThrow(/away/);
    state.fail = false;
    expect(await users.find("carrel", "a")).toBe("id-a");
    await users.find("https://other.example", "a");
    expect(state.lookUps).toBe(3);
  });
});

describe("a stream of a person", () => {
  beforeEach(() => void vi.useFakeTimers({ now: 0 }));
  afterEach(() => void vi.useRealTimers());

  it("ends a minute after the token expired, and says so", async () => {
    const signal = untilExpiry({ ...person, expiresAt: 30_000 }, new AbortController().signal);
    vi.advanceTimersByTime(89_999);
    expect(signal.aborted).toBe(false);
    vi.advanceTimersByTime(1);
    expect(signal.aborted).toBe(true);
    expect(await outcomeOf(Promise.reject(signal.reason))).toBe("UNAUTHENTICATED expired");
  });

  it("ends at once when it is that late already", () => {
    expect(untilExpiry({ ...person, expiresAt: -60_000 }, new AbortController().signal).aborted).toBe(true);
  });

  it("ends with its own end, and leaves no timer behind", () => {
    const own = new AbortController();
    const signal = untilExpiry({ ...person, expiresAt: 30_000 }, own.signal);
    expect(vi.getTimerCount()).toBe(1);
    own.abort("done");
    expect(signal.reason).toBe("done");
    expect(vi.getTimerCount()).toBe(0);
    expect(untilExpiry({ ...person, expiresAt: 30_000 }, own.signal).aborted).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("does not end early when the token is good for years", () => {
    const year = 365 * 86_400_000;
    const signal = untilExpiry({ ...person, expiresAt: year }, new AbortController().signal);
    vi.advanceTimersByTime(year);
    expect(signal.aborted).toBe(false);
    vi.advanceTimersByTime(60_000);
    expect(signal.aborted).toBe(true);
  });
});
