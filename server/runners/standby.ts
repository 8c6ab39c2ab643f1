import { setTimeout as sleep } from "node:timers/promises";
import { newId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { SandboxHandle } from "../sandbox/driver.ts";
import type { Launcher } from "./launcher.ts";
import { newToken } from "./tokens.ts";

/** A sandbox with a started agent that belongs to no session yet. Its runner waits for the answer to its Attach. */
export type Ready = {
  box: string;
  handle: SandboxHandle;
  attachToken: string;
  phantomToken: string;
  /** Lets the runner attach, once a session expects its token. */
  assign(): void;
};

export type Standby = {
  /** One that is ready, or undefined: then the session starts one of its own. */
  take(): Ready | undefined;
  /** Waits until the sandbox with this token has been given a session; false when no sandbox here has the token. */
  assigned(attachToken: string, signal: AbortSignal): Promise<boolean>;
  /** Starts keeping them. */
  start(): void;
  close(): Promise<void>;
};

export type StandbyOptions = {
  launcher: Launcher;
  log: Log;
  /** How many to keep ready; each costs the memory of an idle agent. 0 keeps none. */
  size: number;
};

/** The session that took one is starting now and needs the processor more than its successor does. */
const refillDelayMs = 1_500;
const retryDelayMs = 30_000;

export function createStandby({ launcher, log, size }: StandbyOptions): Standby {
  const waiting: Ready[] = [];
  const assignments = new Map<string, PromiseWithResolvers<boolean>>();
  const closing = new AbortController();
  let filling: Promise<void> | undefined;

  const prepare = async (): Promise<void> => {
    const [box, attachToken, phantomToken] = [newId("box"), newToken("attach"), newToken("phantom")];
    const assignment = Promise.withResolvers<boolean>();
    assignments.set(attachToken, assignment);
    const boot = { attachToken, phantomToken, resume: "", restore: false, model: "", planMode: false };
    const handle = await launcher.launch(box, 0, boot).catch(async (error: unknown) => {
      assignments.delete(attachToken);
      await launcher.removeFiles(box);
      throw error;
    });
    const ready: Ready = {
      box,
      handle,
      attachToken,
      phantomToken,
      assign() {
        assignments.delete(attachToken);
        assignment.resolve(true);
      },
    };
    waiting.push(ready);
    void launcher.wait(handle, closing.signal).then(
      () => discard(ready),
      (error: Error) => closing.signal.aborted || log.warn({ err: error }, "waiting for a standby sandbox failed"),
    );
  };
  /** One that died while it stood by is nobody's; another takes its place. */
  const discard = async (ready: Ready): Promise<void> => {
    const index = waiting.indexOf(ready);
    if (index < 0) return;
    waiting.splice(index, 1);
    assignments.delete(ready.attachToken);
    await launcher.destroy(ready.handle);
    await launcher.removeFiles(ready.box);
    refill(retryDelayMs);
  };
  const fill = async (delayMs: number): Promise<void> => {
    await sleep(delayMs, undefined, { signal: closing.signal }).catch(() => undefined);
    while (waiting.length < size && !closing.signal.aborted) {
      try {
        await prepare();
      } catch (error) {
        log.warn({ err: error }, "no standby sandbox could be started");
        await sleep(retryDelayMs, undefined, { signal: closing.signal }).catch(() => undefined);
      }
    }
  };
  const refill = (delayMs: number): void => {
    filling ??= fill(delayMs).finally(() => {
      filling = undefined;
    });
  };

  return {
    start: () => refill(0),
    take() {
      if (size > 0) refill(refillDelayMs);
      return waiting.shift();
    },
    async assigned(attachToken, signal) {
      const assignment = assignments.get(attachToken);
      if (!assignment) return false;
      // A runner whose call was cut asks again; the assignment is still to come.
      const cut = new Promise<boolean>((resolve) => signal.addEventListener("abort", () => resolve(false), { once: true }));
      return Promise.race([assignment.promise, cut]);
    },
    async close() {
      closing.abort();
      await filling;
      for (const { box, handle } of waiting.splice(0)) {
        await launcher.destroy(handle);
        await launcher.removeFiles(box);
      }
    },
  };
}
