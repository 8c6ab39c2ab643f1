// The nemesis: what happens to processes, machines and stores from outside. Then it stops, and all must come to rest.
import { type Faults, noFaults, stormy } from "./faults.ts";
import { kill, type Process } from "./scheduler.ts";
import type { World } from "./world.ts";

/** Some schedules are calm, so that what only shows when much goes well is seen too. */
const strengths = [0, 0.5, 1, 1.5, 2, 3];
const attacks: readonly ((world: World) => void)[] = [
  killPlane,
  stopPlane,
  killRunner,
  killRunner,
  stopRunner,
  stopRunner,
  restartPostgres,
  loseArchive,
  breakMachine,
];

export function startNemesis(world: World, untilMs: number): void {
  const { random, scheduler } = world;
  const strength = random.pick(strengths);
  world.faults = Object.fromEntries(Object.entries(stormy).map(([fault, chance]) => [fault, chance * strength])) as Faults;
  const strike = (): void => {
    if (scheduler.now > untilMs) return;
    random.pick(attacks)(world);
    scheduler.at(random.between(500, 6_000) / strength, strike);
  };
  world.isCalm = strength === 0;
  if (!world.isCalm) scheduler.at(random.between(500, 4_000), strike);
}

export function stopNemesis(world: World): void {
  world.faults = noFaults;
  world.brokenUntil.clear();
  // Whoever was stopped goes on; but a runner that hangs is nobody's to wake.
  for (const { process } of world.controlPlanes) process.stoppedUntil = Math.min(process.stoppedUntil, world.scheduler.now);
}

function killPlane(world: World): void {
  world.checker.reach("fault: kill of a control plane");
  kill(world.random.pick(world.controlPlanes).process);
}

function stopPlane(world: World): void {
  world.checker.reach("fault: stop of a control plane");
  stop(world, world.random.pick(world.controlPlanes).process, world.random.between(500, 25_000));
}

function killRunner(world: World): void {
  const sandbox = world.random.pick([...world.sandboxes.values()]);
  if (!sandbox) return;
  world.checker.reach("fault: kill of a runner");
  kill(sandbox.process);
}

function stopRunner(world: World): void {
  const all = [...world.sandboxes.values()];
  const atWork = all.filter((one) => (world.store.sessions.get(world.checker.sessionOf(one) ?? "")?.row.turn ?? 0) > 0);
  const sandbox = world.random.pick(atWork.length > 0 ? atWork : all);
  if (!sandbox) return;
  world.checker.reach("fault: stop of a runner");
  stop(world, sandbox.process, world.random.chance(0.2) ? Number.POSITIVE_INFINITY : world.random.between(500, 30_000));
}

function stop(world: World, process: Process, milliseconds: number): void {
  process.stoppedUntil = Math.max(process.stoppedUntil, world.scheduler.now + milliseconds);
}

/** Long enough that sessions are parked. */
function breakMachine(world: World): void {
  const { host } = world.random.pick(world.controlPlanes);
  world.brokenUntil.set(host, world.scheduler.now + world.random.between(500, 12_000));
}

function restartPostgres(world: World): void {
  world.store.awayUntil = world.scheduler.now + world.random.between(300, 4_000);
}

function loseArchive(world: World): void {
  const archive = world.random.pick([...world.blobs.keys()]);
  if (archive === undefined) return;
  world.checker.reach("fault: loss of an archive");
  world.checker.lost.add(archive);
  world.blobs.delete(archive);
}
