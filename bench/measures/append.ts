import type { Measure } from "../measure.ts";
import type { Carrel } from "../support/carrel.ts";
import { give, type Order, startOrderly } from "../support/orders.ts";
import { startProgram } from "../support/program.ts";
import { inTurns, median } from "../support/statistics.ts";

const sessions = 8;
const batch = { batchEvents: 20, payloadBytes: 300 };

/** ReportEvents from sandboxes through their sockets; the floor inserts the same batch by as many connections. */
export const append: Measure = {
  name: "append",
  async run(lab) {
    const forMs = lab.quick ? 1_000 : 3_000;
    const carrel = await lab.startCarrel({ runnerPath: await lab.fakeRunner() });
    const floor = await startProgram("insert-floor", lab.database);
    const ids: string[] = [];
    for (let index = 0; index < sessions; index += 1) ids.push(await startOrderly(carrel));
    const ours = () => appendedPerSecond(carrel, ids, { ...batch, batches: 1_000_000, forMs });
    const plain = async () => (await floor.ask<{ perSecond: number }>({ ...batch, forMs, connections: sessions })).perSecond;
    const values = await inTurns(lab.quick ? 2 : 5, ours, plain, 2);
    await floor.stop();
    await carrel.stop();
    return [
      {
        measure: `durable appends, ${sessions} sessions, batches of ${batch.batchEvents}`,
        unit: "per s",
        ours: median(values.ours),
        floor: median(values.floor),
        aim: { of: "ratio", atLeast: 0.3 },
      },
    ];
  },
};

async function appendedPerSecond(carrel: Carrel, ids: readonly string[], order: Order): Promise<number> {
  const each = await Promise.all(ids.map((id) => give(carrel, id, order)));
  const events = each.reduce((sum, { events: appended }) => sum + appended, 0);
  const milliseconds = Math.max(...each.map(({ endedAt }) => endedAt)) - Math.min(...each.map(({ startedAt }) => startedAt));
  return (events * 1_000) / milliseconds;
}
