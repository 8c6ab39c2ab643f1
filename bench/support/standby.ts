import { setTimeout as sleep } from "node:timers/promises";
import type { Carrel } from "./carrel.ts";

/** Waits until a sandbox stands by and its agent has had the time to start; answers the agent's process. The only one there is. */
export async function sandboxStandsBy(carrel: Carrel): Promise<number> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const agent = (await carrel.sandboxProcesses()).find(({ name }) => name === "claude");
    if (agent) {
      await sleep(1_500);
      return agent.pid;
    }
    if (performance.now() > deadline) throw new Error("no sandbox stands by");
    await sleep(100);
  }
}
