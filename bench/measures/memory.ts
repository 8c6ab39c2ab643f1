import { type ChildProcess, spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import type { Measure, Reading } from "../measure.ts";
import type { Lab } from "../support/lab.ts";
import { memoryOf } from "../support/memory.ts";
import { median } from "../support/statistics.ts";

const settleMs = 3_000;
const megabyte = 1e6;

/** What a server and a session hold while nothing happens. Shared pages count by share. */
export const memory: Measure = {
  name: "memory",
  async run(lab) {
    const carrel = await lab.startCarrel();
    await sleep(settleMs);
    const fresh = await memoryOf([carrel.pid]);
    const sessions: number[] = [];
    const besides: number[] = [];
    const agents: number[] = [];
    for (let round = 0; round < (lab.quick ? 1 : 3); round += 1) {
      // Both at once, so that what they share is shared alike.
      const [talker, agent] = [await carrel.startTalker(), await lab.spawnRawAgent()];
      for (const each of [talker, agent]) await each.turn("hello");
      await sleep(settleMs);
      const processes = await carrel.sandboxProcesses();
      const own = processes.filter(({ name }) => name === "claude").map(({ pid }) => pid);
      if (own.length !== 1) throw new Error(`a session has one agent, not ${own.length}`);
      const whole = (await memoryOf(processes.map(({ pid }) => pid))).pss;
      sessions.push(whole);
      besides.push(whole - (await memoryOf(own)).pss);
      agents.push((await memoryOf([agent.pid])).pss);
      await agent.close();
      await talker.close();
    }
    await sleep(settleMs);
    const used = await memoryOf([carrel.pid]);
    const bare = await bareNode(lab);
    await carrel.stop();
    const server = (measure: string, bytes: number): Reading => ({
      measure,
      unit: "MB",
      ours: bytes / megabyte,
      floor: bare / megabyte,
      aim: { of: "ours", atMost: 120 },
    });
    return [
      {
        measure: "idle session, its agent included (PSS)",
        unit: "MB",
        ours: median(sessions) / megabyte,
        floor: median(agents) / megabyte,
        aim: undefined,
      },
      {
        measure: "idle session beside its own agent (PSS)",
        unit: "MB",
        ours: median(besides) / megabyte,
        floor: undefined,
        aim: { of: "ours", atMost: 50 },
      },
      server("idle server after start (PSS)", fresh.pss),
      { ...server("idle server after start (RSS)", fresh.rss), aim: undefined },
      server("idle server after sessions (PSS)", used.pss),
    ];
  },
};

/** The floor of a server: the same Node with nothing to do. */
async function bareNode({ quick }: Lab): Promise<number> {
  const child: ChildProcess = spawn(process.execPath, ["-e", "setInterval(() => undefined, 60000)"], { stdio: "ignore" });
  await sleep(quick ? 500 : settleMs);
  const { pss } = await memoryOf([child.pid ?? 0]);
  child.kill("SIGKILL");
  return pss;
}
