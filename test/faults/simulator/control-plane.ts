// A control plane's process: what it starts with, and what it forgets when it dies.
import type { ControlPlane, Memory } from "./journal.ts";
import { adoptSandboxes, lookAround, poke } from "./reconciler.ts";
import { enforceRetention } from "./retention.ts";
import { createProcess, type Task } from "./scheduler.ts";
import { untilItWorks, type World } from "./world.ts";

export function startControlPlane(world: World, host: number, skewMs: number): void {
  const process = createProcess(`control-plane ${host}`, skewMs);
  const plane: ControlPlane = { host, process, memory: newMemory(world.scheduler.now), poke: (sessionId) => poke(world, plane, sessionId) };
  world.controlPlanes[host] = plane;
  process.onDeath.push(() => world.scheduler.at(world.random.between(300, 4_000), () => startControlPlane(world, host, skewMs)));
  world.scheduler.spawn(process, run(world, plane));
}

function newMemory(now: number): Memory {
  return {
    known: new Map(),
    leases: new Map(),
    readers: new Map(),
    followers: new Map(),
    busy: new Set(),
    again: new Set(),
    putting: new Map(),
    bookings: new Map(),
    booking: new Set(),
    seeingSince: now,
    lastLook: now,
  };
}

function* run(world: World, plane: ControlPlane): Task {
  yield* untilItWorks(world, () => adoptSandboxes(world, plane));
  world.scheduler.spawn(plane.process, enforceRetention(world, plane));
  yield* lookAround(world, plane);
}
