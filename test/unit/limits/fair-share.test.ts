import { describe, expect, it } from "vitest";
import { createFairShare } from "../../../server/limits/fair-share.ts";

const { signal: never } = new AbortController();

/** Work that ends when told to. */
function job() {
  const gate = Promise.withResolvers<string>();
  let begun = false;
  return {
    begun: () => begun,
    end: () => gate.resolve("done"),
    fail: () => gate.reject(new Error("failed")),
    work: () => {
      begun = true;
      return gate.promise;
    },
  };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

describe("a person's share", () => {
  it("is worked on at once up to its size, and the rest in order as places are left, by failures too", async () => {
    const share = createFairShare(2);
    const jobs = Array.from({ length: 5 }, job);
    const outcomes = jobs.map(({ work }) => share.run("a", never, work).catch((error: Error) => error.message));
    await settle();
    const begun = () => jobs.map((each) => each.begun());
    expect(begun()).toEqual([true, true, false, false, false]);
    jobs[1]!.fail();
    await settle();
    expect(begun()).toEqual([true, true, true, false, false]);
    jobs[2]!.end();
    jobs[0]!.end();
    await settle();
    expect(begun()).toEqual([true, true, true, true, true]);
    for (const { end } of jobs) end();
    expect(await Promise.all(outcomes)).toEqual(["done", "failed", "done", "done", "done"]);
  });

  it("is nothing to others", async () => {
    const share = createFairShare(1);
    const [mine, waiting, theirs] = [job(), job(), job()];
    const all = [share.run("a", never, mine.work), share.run("a", never, waiting.work), share.run("b", never, theirs.work)];
    await settle();
    expect([mine, waiting, theirs].map((each) => each.begun())).toEqual([true, false, true]);
    for (const { end } of [mine, waiting, theirs]) end();
    await Promise.all(all);
  });

  it("keeps no place for a call that went away while it waited", async () => {
    const share = createFairShare(1);
    const [first, gone, last] = [job(), job(), job()];
    const leaving = new AbortController();
    const running = [share.run("a", never, first.work), share.run("a", leaving.signal, gone.work), share.run("a", never, last.work)];
    leaving.abort(new Error("left"));
    await expect(running[1]).rejects.toThrow("left");
    await expect(share.run("a", leaving.signal, gone.work)).rejects.toThrow("left");
    first.end();
    await settle();
    expect([gone.begun(), last.begun()]).toEqual([false, true]);
    last.end();
    await Promise.all([running[0], running[2]]);
  });

  it("of a thousand calls never has more than its size under way", async () => {
    const share = createFairShare(8);
    let now = 0;
    let most = 0;
    const work = async (): Promise<void> => {
      now += 1;
      most = Math.max(most, now);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 2));
      now -= 1;
    };
    await Promise.all(Array.from({ length: 1_000 }, () => share.run("a", never, work)));
    expect([most, now]).toEqual([8, 0]);
  });
});
