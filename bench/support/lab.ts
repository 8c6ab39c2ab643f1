import { mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { readConfig } from "../../server/config.ts";
import { startEmbeddedPostgres } from "../../server/db/embedded.ts";
import { findProcesses, signalAll } from "../../server/db/embedded-process.ts";
import { makeTemporaryDirectory, removeDirectory } from "../../test/support/temporary.ts";
import { type Carrel, type CarrelOptions, startCarrel } from "./carrel.ts";
import { createStampingModel, type StampingModel } from "./model.ts";
import { buildFakeRunner } from "./orders.ts";
import { agentArguments, type Kept, type RawAgent, spawnRawAgent } from "./raw-agent.ts";

/** What every measure finds ready. Whatever it starts through the lab ends with the lab, at the latest. */
export type Lab = {
  /** A fifth of the load, for a first look. */
  quick: boolean;
  /** The Postgres that ours and the floors share: what `pg` connects with. */
  database: { host: string; port: number; user: string; database: string };
  model: StampingModel;
  startCarrel(options?: CarrelOptions): Promise<Carrel>;
  /** The path of a runner without an agent, which appends what it is told to. */
  fakeRunner(): Promise<string>;
  /** The agent by itself, with the flags a session gives it. */
  spawnRawAgent(kept?: Kept): Promise<RawAgent>;
  /** Ends what is still there, last started first. */
  close(): Promise<void>;
};

/** Accepted by the stamping model, as is any other. */
const key = "sk-ant-bench-accepted-by-the-bench-only";

export async function createLab(quick: boolean): Promise<Lab> {
  const closers: (() => Promise<void> | void)[] = [];
  const directory = makeTemporaryDirectory("bench");
  closers.push(() => removeDirectory(directory));
  closers.push(() => removeDirectory(join("/dev/shm", basename(directory))));
  const database = await startPostgres(closers);
  const model = await createStampingModel();
  closers.push(model.close);
  const { claudePath } = readConfig({});
  const flags = await agentArguments(directory);
  let started = 0;
  return {
    quick,
    database,
    model,
    async startCarrel(options = {}) {
      started += 1;
      const home = join(directory, String(started));
      await mkdir(home);
      const carrel = await startCarrel({ ...options, directory: home, database, modelUrl: model.url, key });
      closers.push(carrel.stop);
      return carrel;
    },
    fakeRunner: () => buildFakeRunner(directory),
    async spawnRawAgent(kept) {
      const agent = await spawnRawAgent({ claudePath, directory, modelUrl: model.url, key }, flags, kept);
      closers.push(agent.close);
      return agent;
    },
    close: () => closeAll(closers),
  };
}

/** Each is given its chance; the first failure is reported. */
async function closeAll(closers: (() => Promise<void> | void)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closers.splice(0).reverse()) {
    try {
      await close();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

/** In a place of its own, because it may run as another user. */
async function startPostgres(closers: (() => Promise<void> | void)[]): Promise<Lab["database"]> {
  const directory = makeTemporaryDirectory("benchpg");
  closers.push(() => removeDirectory(directory));
  const dataDirectory = join(directory, "data");
  const quiet = (): void => undefined;
  const postgres = await startEmbeddedPostgres({
    dataDirectory,
    socketDirectory: directory,
    log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
  });
  // It is made to outlive its starter, so an interrupted run has to end it.
  const onExit = (): void => signalAll(findProcesses(dataDirectory), "SIGQUIT");
  process.once("exit", onExit);
  closers.push(async () => {
    await postgres.stop();
    process.off("exit", onExit);
  });
  return postgres.connectionConfig as Lab["database"];
}
