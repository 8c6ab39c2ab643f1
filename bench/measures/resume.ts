import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Measure } from "../measure.ts";
import type { Carrel } from "../support/carrel.ts";
import type { Lab } from "../support/lab.ts";
import type { Kept } from "../support/raw-agent.ts";
import { untilDormant } from "../support/sleepers.ts";
import { sandboxStandsBy } from "../support/standby.ts";
import { inTurns, median } from "../support/statistics.ts";

/** A workspace of 50 MB: sources and their like, of which a quarter is air. */
const files = 800;
const fileBytes = 64 * 1024;

/** A prompt to a dormant session, until the model is asked; the floor has its files and spawns the agent on the conversation. */
export const resume: Measure = {
  name: "resume",
  async run(lab) {
    const carrel = await lab.startCarrel({ environment: { CARREL_STANDBY_SANDBOXES: "1" } });
    const sleeper = await putAwayFilled(lab, carrel);
    const kept = await keepRaw(lab);
    const { ours, floor } = await inTurns(
      lab.quick ? 3 : 9,
      () => throughCarrel(lab, carrel, sleeper),
      () => withoutCarrel(lab, kept),
      1,
    );
    await carrel.stop();
    return [
      {
        measure: "prompt to a dormant session of 50 MB → model request",
        unit: "ms",
        ours: median(ours),
        floor: median(floor),
        aim: { of: "added", atMost: 300 },
      },
    ];
  },
};

async function putAwayFilled(lab: Lab, carrel: Carrel): Promise<string> {
  // The session takes the sandbox that stands by, and so its agent; another one will stand by then.
  const agent = await sandboxStandsBy(carrel);
  const asked = lab.model.nextRequest();
  const { id } = await carrel.createSession("hello");
  await asked;
  await fill(`/proc/${agent}/root/workspace`);
  await putAway(carrel, id);
  return id;
}

async function throughCarrel(lab: Lab, carrel: Carrel, sessionId: string): Promise<number> {
  const asked = lab.model.nextRequest();
  const started = performance.now();
  await carrel.client.channel.sendPrompt({ sessionId, text: "hello again" });
  const milliseconds = (await asked) - started;
  await putAway(carrel, sessionId);
  return milliseconds;
}

/** And until a sandbox stands by again. */
async function putAway(carrel: Carrel, sessionId: string): Promise<void> {
  await untilDormant(carrel, sessionId);
  await sleep(2_500);
}

async function keepRaw(lab: Lab): Promise<Kept> {
  const agent = await lab.spawnRawAgent();
  await fill(join(agent.kept.home, "workspace"));
  await agent.turn("hello");
  // It writes its record of the conversation a little later.
  await sleep(1_000);
  await agent.close();
  return agent.kept;
}

async function withoutCarrel(lab: Lab, kept: Kept): Promise<number> {
  const asked = lab.model.nextRequest();
  const started = performance.now();
  const agent = await lab.spawnRawAgent(kept);
  const turn = agent.turn("hello again");
  const milliseconds = (await asked) - started;
  await turn;
  await sleep(1_000);
  await agent.close();
  return milliseconds;
}

async function fill(workspace: string): Promise<void> {
  for (let index = 0; index < files; index += 1) {
    const directory = join(workspace, String(index % 20));
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, `${index}.txt`), randomBytes((fileBytes / 4) * 3).toString("base64"));
  }
}
