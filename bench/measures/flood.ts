import type { Measure, Reading } from "../measure.ts";
import type { Carrel } from "../support/carrel.ts";
import { startProgram } from "../support/program.ts";
import { inTurns, median } from "../support/statistics.ts";

const connections = 64;
const everyMs = 10;
const getSession = "/carrel.v1.SessionService/GetSession";
const sendPrompt = "/carrel.v1.ChannelService/SendPrompt";

type Times = { p50: number; p99: number };

/**
 * One person sends prompts past their limit as fast as 64 connections can; another one asks for a session a hundred times a
 * second. The floor: the same flood goes to a bare server beside Carrel, so that the machine is as busy.
 */
export const flood: Measure = {
  name: "flood",
  async run(lab) {
    const carrel = await lab.startCarrel({ environment: { CARREL_LIMIT_PROMPTS_PER_MINUTE: "60" }, runnerPath: await lab.fakeRunner() });
    const bare = await startProgram<{ url: string }>("get-session-floor", lab.database);
    const load = await startProgram("http-load", {});
    const paced = await startProgram("paced-load", {});
    const forMs = lab.quick ? 1_500 : 4_000;
    const [flooded, quiet] = [await personWithSession(carrel, "flood@example.com"), await personWithSession(carrel, "quiet@example.com")];
    const question = { url: carrel.url, path: getSession, token: quiet.token, body: JSON.stringify({ sessionId: quiet.sessionId }) };
    const ask = () => paced.ask<Times>({ ...question, everyMs, forMs });
    const during = async (target: { url: string; path: string; token: string; body: string }): Promise<Times> => {
      const flooding = load.ask<{ failed: number }>({ ...target, connections, forMs: forMs + 500 });
      const [times] = await Promise.all([ask(), flooding]);
      return times;
    };
    const prompt = JSON.stringify({ sessionId: flooded.sessionId, text: "more" });
    const session = JSON.stringify({ sessionId: `ses_${"1".repeat(32)}` });
    const ours = () => during({ url: carrel.url, path: sendPrompt, token: flooded.token, body: prompt });
    const beside = () => during({ url: bare.said.url, path: getSession, token: "", body: session });
    const values = await inTurns(lab.quick ? 2 : 5, ours, beside, 1);
    for (const program of [load, paced, bare]) await program.stop();
    await carrel.stop();
    const reading = (name: keyof Times, aim: Reading["aim"]): Reading => ({
      measure: `somebody else's GetSession during a flood, ${name}`,
      unit: "ms",
      ours: median(values.ours.map((times) => times[name])),
      floor: median(values.floor.map((times) => times[name])),
      aim,
    });
    return [reading("p50", undefined), reading("p99", { of: "ratio", atMost: 2 })];
  },
};

async function personWithSession(carrel: Carrel, email: string): Promise<{ token: string; sessionId: string }> {
  const { token, client } = await carrel.signUp(email);
  const { session } = await client.sessions.createSession({});
  return { token, sessionId: session!.id };
}
