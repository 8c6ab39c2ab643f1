// The scenarios of the long form that break processes and networks under a workload.
import { noClocks } from "./nemesis/clock.ts";
import type { FaultName } from "./nemesis/faults.ts";
import { createRandom } from "./random.ts";
import { runTrial, type Trial } from "./workload/trial.ts";
import { createWorld, type WorldOptions } from "./world.ts";

export type Scenario = {
  name: string;
  what: string;
  faults: readonly FaultName[];
  /** How many faults in the long form. */
  times: number;
  postgres: WorldOptions["postgres"];
  /** Why it cannot be played on this machine. */
  unavailable?: () => string | undefined;
};

export const scenarios: readonly Scenario[] = [
  {
    name: "control-plane",
    what: "kill -9 of the control plane",
    faults: ["kill_control_plane"],
    times: 200,
    postgres: "proxied",
  },
  { name: "runner", what: "kill -9 of everything in a sandbox", faults: ["kill_sandbox"], times: 100, postgres: "proxied" },
  { name: "postgres", what: "kill -9 of Postgres", faults: ["kill_postgres"], times: 50, postgres: "embedded" },
  {
    name: "parts",
    what: "runner or agent alone killed, sandbox or control plane stopped for a while, orderly restarts",
    faults: ["kill_runner", "stop_control_plane", "kill_agent", "stop_sandbox", "restart_control_plane", "restart_postgres"],
    times: 48,
    postgres: "proxied",
  },
  {
    name: "network",
    what: "connections cut, delayed, sliced, half open: of clients, and between server and Postgres",
    faults: [
      "cut_clients",
      "cut_database",
      "delay_clients",
      "deafen_database",
      "slice_clients",
      "delay_database",
      "deafen_clients",
      "slice_database",
      "silence_database",
    ],
    times: 72,
    postgres: "proxied",
  },
  {
    name: "clock",
    what: "control planes whose clocks are off by up to an hour, killed and replaced",
    faults: ["turn_clock"],
    times: 12,
    postgres: "proxied",
    unavailable: noClocks,
  },
  {
    name: "mixed",
    what: "everything, in turn",
    faults: [
      "kill_control_plane",
      "deafen_clients",
      "kill_sandbox",
      "kill_postgres",
      "stop_sandbox",
      "cut_database",
      "restart_control_plane",
      "kill_agent",
    ],
    times: 64,
    postgres: "proxied",
  },
];

/** One scenario in a new world. */
export async function play(scenario: Scenario, times: number, seed: number, lives = 3): Promise<Trial> {
  const world = await createWorld({ random: createRandom(seed), postgres: scenario.postgres });
  try {
    return await runTrial(world, { faults: scenario.faults, times, lives });
  } finally {
    await world.close();
  }
}
