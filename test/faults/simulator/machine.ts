// A machine with sandboxes (server/runners/launcher.ts, server/sandbox): boxes of files, and what runs over them.
import { runInSandbox } from "./runner.ts";
import { createProcess, kill, Refusal, type Task } from "./scheduler.ts";
import { act, type Box, emptySpool, latency, newNumber, type Sandbox, type World } from "./world.ts";

export type Start = { box: string; host: number; run: number; attachToken: number; phantomToken: number; session: string };

/** No failure of the database. */
export const machineFailed = "MACHINE_FAILED";

function isBroken(world: World, host: number): boolean {
  return (world.brokenUntil.get(host) ?? 0) > world.scheduler.now;
}

/** Starts a sandbox over the files of a box. */
export function launch(world: World, start: Start): Task<number> {
  return act(world, () => {
    if (world.random.chance(world.faults.start) || isBroken(world, start.host)) {
      world.checker.reach("fault: a sandbox cannot be started");
      throw new Refusal(machineFailed);
    }
    const box: Box = world.boxes.get(start.box) ?? { id: start.box, host: start.host, files: 0, spool: emptySpool(0), isRemoved: false };
    world.boxes.set(box.id, box);
    // Of a runner that is gone and has been heard.
    box.spool = emptySpool(0);
    const sandbox: Sandbox = {
      id: newNumber(world),
      box,
      run: start.run,
      process: createProcess(`runner of ${box.id}`),
      isLingering: false,
    };
    world.sandboxes.set(sandbox.id, sandbox);
    sandbox.process.onDeath.push(() => {
      // Its control plane waits for its exit.
      if (world.sandboxes.delete(sandbox.id)) world.scheduler.at(latency(world), () => world.controlPlanes[box.host]!.poke(start.session));
    });
    world.checker.sandboxStarted(sandbox, start.session);
    if (world.random.chance(world.faults.start)) {
      world.checker.reach("fault: a runner never attaches");
      sandbox.process.stoppedUntil = Number.POSITIVE_INFINITY;
    }
    world.scheduler.spawn(sandbox.process, runInSandbox(world, sandbox, start));
    return sandbox.id;
  });
}

/** Ends everything of a sandbox. What it has sent may still arrive for a while, as if it lived on. */
export function destroy(world: World, id: number): Task {
  return act(world, () => {
    const sandbox = world.sandboxes.get(id);
    if (!sandbox) return;
    if (isBroken(world, sandbox.box.host)) {
      world.checker.reach("fault: a sandbox cannot be ended");
      throw new Refusal(machineFailed);
    }
    world.sandboxes.delete(id);
    if (!world.random.chance(world.faults.lingering)) return kill(sandbox.process);
    world.checker.reach("fault: an ended runner still speaks");
    sandbox.isLingering = true;
    sandbox.process.stoppedUntil = 0;
    world.scheduler.at(world.random.between(1_000, 10_000), () => kill(sandbox.process));
  });
}

export function listSandboxes(world: World, host: number): Task<{ id: number; box: string; run: number }[]> {
  return act(world, () =>
    [...world.sandboxes.values()].filter(({ box }) => box.host === host).map(({ id, box, run }) => ({ id, box: box.id, run })),
  );
}

export function removeFiles(world: World, box: string): Task {
  return act(world, () => {
    const found = world.boxes.get(box);
    if (!found || found.isRemoved) return;
    world.checker.filesRemoved(found);
    found.isRemoved = true;
    world.boxes.delete(box);
  });
}
