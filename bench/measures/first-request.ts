import type { Measure } from "../measure.ts";
import type { Carrel } from "../support/carrel.ts";
import type { Lab } from "../support/lab.ts";
import { sandboxStandsBy } from "../support/standby.ts";
import { inTurns, median } from "../support/statistics.ts";

/** CreateSession with a prompt, until the model is asked; the floor spawns the agent and writes the prompt to it. */
export const firstRequest: Measure = {
  name: "first-request",
  async run(lab) {
    const rounds = lab.quick ? 3 : 9;
    const readings = [];
    for (const standby of [1, 0]) {
      const carrel = await lab.startCarrel({ environment: { CARREL_STANDBY_SANDBOXES: String(standby) } });
      const { ours, floor } = await inTurns(
        rounds,
        () => throughCarrel(lab, carrel, standby),
        () => withoutCarrel(lab),
      );
      await carrel.stop();
      readings.push({
        measure: `create → first model request, ${standby > 0 ? "a sandbox stands by" : "no sandbox stands by"}`,
        unit: "ms" as const,
        ours: median(ours),
        floor: median(floor),
        aim: { of: "ratio" as const, atMost: 1.2 },
      });
    }
    return readings;
  },
};

async function throughCarrel(lab: Lab, carrel: Carrel, standby: number): Promise<number> {
  if (standby > 0) await sandboxStandsBy(carrel);
  const requested = lab.model.nextRequest();
  const started = performance.now();
  const session = await carrel.createSession("hello");
  const milliseconds = (await requested) - started;
  await carrel.endSession(session.id);
  return milliseconds;
}

async function withoutCarrel(lab: Lab): Promise<number> {
  const requested = lab.model.nextRequest();
  const started = performance.now();
  const agent = await lab.spawnRawAgent();
  const turn = agent.turn("hello");
  const milliseconds = (await requested) - started;
  await turn;
  await agent.close();
  return milliseconds;
}
