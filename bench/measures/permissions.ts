import { decide, type PermissionRules } from "../../server/channel/permissions/engine.ts";
import { readVectors } from "../../test/unit/permissions/vectors.ts";
import type { Measure } from "../measure.ts";
import { percentile } from "../support/statistics.ts";

/** The lists of a session that has been worked with for a while. They come on top of the rules of each vector. */
const usual = {
  allowed: ["Read", "Grep", "Glob", "TodoWrite", ..."cat head tail less grep sed awk jq ls find wc git npm node make".split(" ").map(bash)],
  denied: ["WebFetch", ...["rm", "git push", "npm publish", "kubectl delete", "sudo"].map(bash)],
  sessionPatterns: ["mkdir", "touch", "docker ps"].map(bash),
};

function bash(prefix: string): string {
  return `Bash(${prefix}:*)`;
}

type Sample = { rules: PermissionRules; tool: string; text: string };

/** One decision, its call read from JSON as the gateway reads it; the floor reads the same call and splits its command on blanks. */
export const permissions: Measure = {
  name: "permissions",
  run: ({ quick }) => {
    const samples = readVectors().map(({ rules, tool, input }): Sample => {
      const own = { ...rules, allowed: [...rules.allowed, ...usual.allowed], denied: [...rules.denied, ...usual.denied] };
      return {
        rules: { ...own, sessionPatterns: [...rules.sessionPatterns, ...usual.sessionPatterns] },
        tool,
        text: JSON.stringify(input),
      };
    });
    const times = { ours: [] as number[], floor: [] as number[] };
    const warmUps = 20;
    for (let round = 0; round < warmUps + (quick ? 20 : 100); round += 1) {
      for (const sample of samples) {
        const floor = microsecondsOf(() => splitCall(sample));
        const ours = microsecondsOf(() => decideCall(sample));
        if (round < warmUps) continue;
        times.floor.push(floor);
        times.ours.push(ours);
      }
    }
    const reading = (share: number) => ({
      measure: `a permission decision, ${samples.length} calls, p${share * 100}`,
      unit: "µs" as const,
      ours: percentile(times.ours, share),
      floor: percentile(times.floor, share),
    });
    return Promise.resolve([
      { ...reading(0.5), aim: undefined },
      { ...reading(0.99), aim: { of: "ours", atMost: 50 } },
    ]);
  },
};

function decideCall({ rules, tool, text }: Sample): string {
  return decide(rules, tool, JSON.parse(text)).behavior;
}

function splitCall({ text }: Sample): number {
  const { command } = JSON.parse(text) as { command?: unknown };
  return typeof command === "string" ? command.split(/\s+/).length : 0;
}

function microsecondsOf(work: () => unknown): number {
  const started = performance.now();
  work();
  return (performance.now() - started) * 1_000;
}
