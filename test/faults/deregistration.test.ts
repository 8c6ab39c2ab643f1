import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SessionDetail } from "../../gen/carrel/v1/session_pb.ts";
import { filesNaming, tablesNaming, userIdOf } from "../support/account.ts";
import { createInstallation, type Installation } from "../support/carrel.ts";
import { type Keeper, keepServer } from "../support/keeper.ts";
import { openSession, type Person, signUp } from "../support/person.ts";
import { repeated } from "../support/repeated.ts";
import { destroySandboxes, leftovers } from "../support/sandboxes.ts";
import { unlimited } from "../support/unlimited.ts";

/** How often somebody leaves a server that is killed; the long form sets it. */
const rounds = Math.ceil(Number(process.env["CARREL_TEST_KILLS"] ?? 5) / 5);

let installation: Installation;
let keeper: Keeper;

beforeAll(async () => {
  installation = await createInstallation({ ...unlimited, CARREL_STANDBY_SANDBOXES: "0", CARREL_DRAIN_MS: "1000" });
  keeper = await keepServer(installation);
});
afterAll(async () => {
  await keeper?.close();
  await destroySandboxes(installation);
  await installation?.remove();
});

async function populate(person: Person): Promise<string[]> {
  const working = await openSession(person, { initialPrompt: `[[tool Bash {"command":"perl -e 'sleep 600'"}]]` });
  const dormant = await openSession(person, { initialPrompt: "[[text asleep]]" });
  const detailOf = async (sessionId: string) => (await person.sessions.getSession({ sessionId })).session!.detail;
  await expect.poll(() => detailOf(dormant), { timeout: 20_000 }).toBe(SessionDetail.IDLE);
  await person.sessions.hibernateSession({ sessionId: dormant });
  await expect.poll(() => detailOf(dormant), { timeout: 20_000 }).toBe(SessionDetail.DORMANT);
  return [working, dormant];
}

test("the control plane killed at random moments after somebody left: nothing of them stays", { timeout: 240_000 }, async () => {
  for (let round = 0; round < rounds; round += 1) {
    const email = `leaver-${round}@example.com`;
    const person = await signUp(installation, keeper.url, email);
    const sessions = await populate(person);
    const userId = await userIdOf(installation, email);
    const accepted = person.registration.deregister({}).catch(() => undefined);
    // From before the commit to after the last row.
    await sleep(Math.random() * 150);
    await keeper.end("SIGKILL");
    await accepted;
    await keeper.start();
    await repeated(() => person.registration.deregister({}));
    await expect.poll(() => tablesNaming(installation, [userId, ...sessions]), { timeout: 20_000 }).toEqual([]);
    await expect
      .poll(() => leftovers(installation), { timeout: 10_000 })
      .toEqual({ records: [], workspaces: [], boxes: [], processes: [], cgroups: [], mounts: [] });
    expect(filesNaming(installation, sessions)).toEqual([]);
  }
});
