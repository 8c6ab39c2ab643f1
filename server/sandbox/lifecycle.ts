import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { removeCgroups, setCpus } from "./cgroups.ts";
import type { ProcessIdentity, SandboxDriver, SandboxHandle, SandboxStatus } from "./driver.ts";
import { isAlive, killNow, readBootId, readProcess, until, within } from "./processes.ts";
import { type Records, readStatus } from "./records.ts";

export type Lifecycle = Pick<SandboxDriver, "inspect" | "destroy" | "wait" | "setCpus" | "list"> & {
  /** Lets `wait` learn of the end from this process' own child. It no longer keeps this process running. */
  adopt(handle: SandboxHandle, child: ChildProcess): void;
};

type Options = {
  records: Records;
  /** Kills what the driver can find of a sandbox besides its process group and first process; true when none is left. */
  killStrays(handle: SandboxHandle): Promise<boolean>;
  /** Gives back what the driver reserved for the sandbox. Repeatable. */
  release(handle: SandboxHandle): Promise<void>;
};

// How soon the end of a process that is not our child is noticed.
const pollMs = 250;
const orderlyEndMs = 500;

type Family = { supervisor: ProcessIdentity | null; outside: ProcessIdentity | null; init: ProcessIdentity | null };

/** The life of sandboxes after `start`, told from the records and /proc alone, so that a restart changes nothing. */
export async function createLifecycle({ records, killStrays, release }: Options): Promise<Lifecycle> {
  const bootId = await readBootId();
  const children = new Map<string, ChildProcess>();

  // A handle may be older than the record (taken while starting) or of an earlier sandbox of the same name.
  const refresh = async (handle: SandboxHandle): Promise<{ known: SandboxHandle; recorded: boolean }> => {
    const record = await records.read(handle.id);
    const other = handle.supervisor && record?.supervisor && !isSame(handle.supervisor, record.supervisor);
    return record === null || other ? { known: handle, recorded: false } : { known: record, recorded: true };
  };

  const inspect = async (handle: SandboxHandle): Promise<SandboxStatus> => {
    const { known, recorded } = await refresh(handle);
    // Before the status is read: once dead, what the file says is final.
    const { supervisor, init } = known.bootId === bootId ? await family(known) : { supervisor: null, init: null };
    const alive = supervisor !== null || init !== null;
    const exitCode = recorded ? (await readStatus(known.directory)).exitCode : null;
    return alive && exitCode === null ? { state: "running" } : { state: "exited", exitCode };
  };

  const kill = async (handle: SandboxHandle): Promise<void> => {
    const { supervisor, outside, init } = await family(handle);
    const members = [supervisor, outside, init].filter((member) => member !== null);
    const areGone = async () => !(await Promise.all(members.map(isAlive))).includes(true);
    if (init) {
      // Those around it then end by themselves, each collecting its child, and leave no zombies to the machine's init.
      killNow(init.pid, false);
      await within(orderlyEndMs, areGone);
    }
    if (supervisor && (await isAlive(supervisor))) killNow(supervisor.pid, true);
    for (const member of members) if (await isAlive(member)) killNow(member.pid, false);
    await until(async () => (await areGone()) && (await killStrays(handle)), `the processes of sandbox ${handle.id} cannot be killed`);
  };

  return {
    inspect,
    destroy: async (handle) => {
      const { known, recorded } = await refresh(handle);
      if (known.bootId === bootId) await kill(known);
      const child = children.get(key(known));
      if (child && !hasEnded(child)) await once(child, "exit");
      children.delete(key(known));
      if (!recorded) return;
      await removeCgroups(known.cgroups);
      await release(known);
      await records.remove(known.directory);
    },
    wait: async (handle, signal) => {
      for (;;) {
        signal.throwIfAborted();
        const status = await inspect(handle);
        if (status.state === "exited") return status;
        const child = children.get(key(handle));
        if (child && !hasEnded(child)) await endOf(child, signal);
        else await sleep(pollMs, undefined, { signal }).catch(() => signal.throwIfAborted());
      }
    },
    setCpus: (handle, cpus) => setCpus(handle.cgroups, cpus),
    list: async () => {
      const handles = await Promise.all((await records.ids()).map((id) => records.read(id)));
      return handles.filter((handle) => handle !== null);
    },
    adopt: (handle, child) => {
      child.unref();
      children.set(key(handle), child);
      child.once("exit", () => children.delete(key(handle)));
    },
  };
}

/**
 * The living processes that make up a sandbox as the host sees it: our supervisor, bubblewrap outside, and the first
 * process inside, with which all others inside end. While `start` has not completed, the first one is not on record, and
 * the number in the status file counts only when it descends from our supervisor.
 */
async function family(handle: SandboxHandle): Promise<Family> {
  const supervisor = handle.supervisor && (await isAlive(handle.supervisor)) ? handle.supervisor : null;
  const initPid = handle.init?.pid ?? (await readStatus(handle.directory)).init;
  const init = initPid === null ? null : await readProcess(initPid);
  const outside = init && (await readProcess(init.parent));
  const descends = supervisor !== null && outside?.parent === supervisor.pid;
  return {
    supervisor,
    outside: descends ? outside.identity : null,
    init: init && (descends || isSame(init.identity, handle.init)) ? init.identity : null,
  };
}

async function endOf(child: ChildProcess, signal: AbortSignal): Promise<void> {
  // Somebody waits, so the child may keep this process running for that long.
  child.ref();
  try {
    await once(child, "exit", { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    child.unref();
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

function isSame(one: ProcessIdentity, other: ProcessIdentity | null): boolean {
  return one.pid === other?.pid && one.startTime === other.startTime;
}

function key(handle: SandboxHandle): string {
  return `${handle.id} ${handle.supervisor?.pid} ${handle.supervisor?.startTime}`;
}
