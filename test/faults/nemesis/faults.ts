// What can be done to an installation. Each fault has ended when it resolves: what was killed runs again, what was stopped goes on.
import { setTimeout as sleep } from "node:timers/promises";
import { repeated } from "../../support/repeated.ts";
import { processesOf, processOf, signalFamily } from "../../support/sandboxes.ts";
import type { World } from "../world.ts";
import { clockOf } from "./clock.ts";

export type FaultName = keyof typeof faults;

type Fault = (world: World) => Promise<void>;

export const faults = {
  kill_control_plane: (world) => world.keeper.restart("SIGKILL"),
  stop_control_plane: async ({ keeper, random }) => {
    process.kill(keeper.pid, "SIGSTOP");
    await sleep(200 + random.below(1_500));
    process.kill(keeper.pid, "SIGCONT");
  },
  restart_control_plane: (world) => world.keeper.restart("SIGTERM"),
  kill_sandbox: (world) =>
    onSandbox(world, async (sessionId) => {
      for (const { pid } of await processesOf(world.installation, sessionId)) signal(pid, "SIGKILL");
    }),
  kill_runner: (world) =>
    onSandbox(world, async (sessionId) => signal(await processOf(world.installation, sessionId, "runner"), "SIGKILL")),
  kill_agent: (world) => onSandbox(world, async (sessionId) => signal(await processOf(world.installation, sessionId, "claude"), "SIGKILL")),
  stop_sandbox: (world) =>
    onSandbox(world, async (sessionId) => {
      const [first] = await processesOf(world.installation, sessionId);
      if (!first) return;
      await signalFamily(first.pid, "SIGSTOP");
      await sleep(200 + world.random.below(2_000));
      await signalFamily(first.pid, "SIGCONT");
    }),
  kill_postgres: async (world) => {
    const pid = world.postmaster();
    if (pid !== undefined) signal(pid, "SIGKILL");
    await sleep(50);
    await world.revivePostgres();
  },
  /** As an operator would: clients are cut off, everything is written. */
  restart_postgres: async (world) => {
    const pid = world.postmaster();
    if (pid !== undefined) signal(pid, "SIGINT");
    await sleep(100);
    await world.revivePostgres();
  },
  /** The next process believes another hour. */
  turn_clock: async (world) => {
    Object.assign(world.processEnvironment, clockOf(world.random.pick(["+1h", "-1h", "+17m", "-40s"])));
    await world.keeper.restart("SIGKILL");
  },
  cut_clients: async ({ proxies }) => void proxies.clients.cut(),
  cut_database: async ({ proxies }) => void proxies.database?.cut(),
  delay_clients: (world) => during(world, 1_000, (on) => world.proxies.clients.delay(on ? 200 : 0)),
  delay_database: (world) => during(world, 1_000, (on) => world.proxies.database?.delay(on ? 50 : 0)),
  slice_clients: (world) => during(world, 800, (on) => world.proxies.clients.slice(on ? 7 : Number.POSITIVE_INFINITY)),
  slice_database: (world) => during(world, 800, (on) => world.proxies.database?.slice(on ? 11 : Number.POSITIVE_INFINITY)),
  /** Half open: what is asked arrives, and no answer comes back. */
  deafen_clients: (world) => during(world, 1_500, (on) => world.proxies.clients.mute(...(on ? (["back"] as const) : []))),
  deafen_database: (world) => during(world, 1_500, (on) => world.proxies.database?.mute(...(on ? (["back"] as const) : []))),
  silence_database: (world) =>
    during(world, 1_500, (on) => {
      world.proxies.database?.mute(...(on ? (["there", "back"] as const) : []));
      // What waited is lost with its connections, as behind a router that was replaced.
      if (!on) world.proxies.database?.cut();
    }),
} satisfies Record<string, Fault>;

/** Sessions that are lost again and again in a short time are given up, as they should be; here that would only end the run. */
export async function forgiveRestarts({ installation }: World): Promise<void> {
  await repeated(() => installation.database.db.updateTable("session").set({ restarts: 0 }).where("restarts", ">", 0).execute());
}

async function onSandbox(world: World, strike: (sessionId: string) => Promise<void>): Promise<void> {
  const { db } = world.installation.database;
  const rows = await repeated(() =>
    db.selectFrom("session").select("id").where("handle", "is not", null).where("state", "<>", "ended").execute(),
  );
  if (rows.length === 0) return;
  // It may be gone by the time it is struck: then somebody was faster, and nothing is left to be broken.
  await strike(world.random.pick(rows).id).catch((error: Error) => {
    if (!/^no (runner|claude) in/.test(error.message)) throw error;
  });
}

async function during({ random }: World, mostMs: number, set: (on: boolean) => void): Promise<void> {
  set(true);
  await sleep(100 + random.below(mostMs));
  set(false);
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
