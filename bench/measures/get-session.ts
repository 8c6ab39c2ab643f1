import type { Measure } from "../measure.ts";
import type { Lab } from "../support/lab.ts";
import { startProgram } from "../support/program.ts";
import { inTurns, median } from "../support/statistics.ts";

const path = "/carrel.v1.SessionService/GetSession";
const connections = 64;

/** GetSession as Connect JSON; the floor is a bare handler and one query by primary key on the same Postgres. */
export const getSession: Measure = {
  name: "get-session",
  async run(lab) {
    const carrel = await lab.startCarrel();
    const floor = await startProgram<{ url: string }>("get-session-floor", lab.database);
    const load = await startProgram("http-load", {});
    const session = await carrel.createSession();
    const perSecond = async (url: string, sessionId: string): Promise<number> => {
      const question = { url, path, token: carrel.token, body: JSON.stringify({ sessionId }), connections, forMs: forMs(lab) };
      const answer = await load.ask<{ perSecond: number; failed: number }>(question);
      if (answer.failed > 0) throw new Error(`${answer.failed} requests failed`);
      return answer.perSecond;
    };
    const ours = () => perSecond(carrel.url, session.id);
    const bare = () => perSecond(floor.said.url, `ses_${"1".repeat(32)}`);
    const values = await inTurns(lab.quick ? 3 : 7, ours, bare, 2);
    await load.stop();
    await floor.stop();
    await carrel.stop();
    return [
      {
        measure: `GetSession, ${connections} connections`,
        unit: "per s",
        ours: median(values.ours),
        floor: median(values.floor),
        aim: { of: "ratio", atLeast: 0.75 },
      },
    ];
  },
};

function forMs({ quick }: Lab): number {
  return quick ? 1_000 : 2_500;
}
