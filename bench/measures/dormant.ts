import { setTimeout as sleep } from "node:timers/promises";
import type { Measure } from "../measure.ts";
import type { Carrel } from "../support/carrel.ts";
import { startOrderly } from "../support/orders.ts";
import { untilDormant } from "../support/sleepers.ts";

const atOnce = 4;

/** What a thousand sessions that were made, put away and never touched again leave in the server's memory. */
export const dormant: Measure = {
  name: "dormant",
  async run(lab) {
    const sessions = lab.quick ? 100 : 1_000;
    const environment = { CARREL_LIMIT_CONCURRENT_SESSIONS: String(sessions + 100) };
    const carrel = await lab.startCarrel({ runnerPath: await lab.fakeRunner(), environment });
    // What the first ones load and compile is not theirs.
    await putAwayMany(carrel, 20);
    const before = await carrel.collectedMemory();
    await putAwayMany(carrel, sessions);
    await sleep(2_000);
    const after = await carrel.collectedMemory();
    const left = await carrel.sandboxProcesses();
    if (left.length > 0) throw new Error(`${left.length} processes are left of sessions that were put away`);
    await carrel.stop();
    return [
      {
        measure: `memory of a dormant session, of ${sessions.toLocaleString("en-US")} (server RSS)`,
        unit: "KB",
        ours: (after.rss - before.rss) / sessions / 1_000,
        floor: undefined,
        aim: { of: "ours", atMost: 1_000 },
      },
    ];
  },
};

async function putAwayMany(carrel: Carrel, sessions: number): Promise<void> {
  let left = sessions;
  const work = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      await untilDormant(carrel, await startOrderly(carrel));
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}
