import type { Aim, Measure, Reading } from "../measure.ts";
import { inTurns, percentile } from "../support/statistics.ts";
import type { Talker } from "../support/talker.ts";

const paceMs = 20;

/** A token from the model's write to the client, while the log is kept; the floor is the agent's own output. */
export const tokenRelay: Measure = {
  name: "token-relay",
  async run(lab) {
    Object.assign(lab.model.answer, { tokens: lab.quick ? 50 : 150, paceMs });
    const carrel = await lab.startCarrel();
    const readings: Reading[] = [];
    for (const count of [1, 10]) {
      const sessions: Talker[] = [];
      const agents: Talker[] = [];
      for (let index = 0; index < count; index += 1) {
        sessions.push(await carrel.startTalker());
        agents.push(await lab.spawnRawAgent());
      }
      for (const talker of [...sessions, ...agents]) await talker.turn("hello");
      const { ours, floor } = await inTurns(
        lab.quick ? 2 : 4,
        () => delays(sessions),
        () => delays(agents),
      );
      for (const talker of [...sessions, ...agents]) await talker.close();
      const aims: [number, string, Aim][] =
        count === 1
          ? [
              [0.5, "p50", { of: "added", atMost: 1.5 }],
              [0.99, "p99", { of: "added", atMost: 8 }],
            ]
          : [[0.99, "p99", { of: "added", atMost: 16 }]];
      for (const [share, word, aim] of aims) {
        const who = count === 1 ? "one session" : `${count} sessions at once`;
        readings.push({
          measure: `model token → client, ${who}, ${word}`,
          unit: "ms",
          ours: percentile(ours.flat(), share),
          floor: percentile(floor.flat(), share),
          aim,
        });
      }
    }
    await carrel.stop();
    return readings;
  },
};

async function delays(talkers: readonly Talker[]): Promise<number[]> {
  const turns = await Promise.all(talkers.map((talker) => talker.turn("speak slowly")));
  return turns.flatMap(({ tokens }) => tokens.map(({ writtenAt, seenAt }) => seenAt - writtenAt));
}
