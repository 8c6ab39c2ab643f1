import type { Measure } from "../measure.ts";
import { inTurns, median } from "../support/statistics.ts";
import type { Talker } from "../support/talker.ts";

/** SendPrompt until its first delta is at the client; the floor is the agent's input line until its first delta's line. */
export const secondTurn: Measure = {
  name: "second-turn",
  async run(lab) {
    Object.assign(lab.model.answer, { tokens: 3, paceMs: 0 });
    const carrel = await lab.startCarrel();
    const session = await carrel.startTalker();
    const agent = await lab.spawnRawAgent();
    for (const talker of [session, agent]) await talker.turn("hello");
    const { ours, floor } = await inTurns(
      lab.quick ? 8 : 40,
      () => firstToken(session),
      () => firstToken(agent),
    );
    await agent.close();
    await carrel.stop();
    return [
      { measure: "second turn → first token", unit: "ms", ours: median(ours), floor: median(floor), aim: { of: "added", atMost: 10 } },
    ];
  },
};

async function firstToken(talker: Talker): Promise<number> {
  const { sentAt, tokens } = await talker.turn("and again");
  const [first] = tokens;
  if (!first) throw new Error("a turn had no token");
  return first.seenAt - sentAt;
}
