/** A server process that is killed and started again on the same port, as an operator's supervisor would. */
import { randomInt } from "node:crypto";
import net from "node:net";
import { type CarrelProcess, type Installation, spawnServer } from "./carrel.ts";

export type Keeper = {
  readonly url: string;
  readonly pid: number;
  /** Ends the process by this signal and answers its exit code once it is gone. */
  end(signal: NodeJS.Signals): Promise<number | null>;
  start(): Promise<void>;
  /** Ends the process and starts the next one. */
  restart(signal: NodeJS.Signals): Promise<void>;
  close(): Promise<void>;
};

export async function keepServer(installation: Installation, environment: Record<string, string> = {}): Promise<Keeper> {
  const port = await freePort();
  let server: CarrelProcess | undefined;
  const keeper: Keeper = {
    get url() {
      return `http://127.0.0.1:${port}`;
    },
    get pid() {
      return server?.pid ?? 0;
    },
    async end(signal) {
      const ending = server;
      server = undefined;
      ending?.kill(signal);
      return (await ending?.exited) ?? null;
    },
    async start() {
      server = await spawnServer(installation, { ...environment, CARREL_PORT: String(port) });
    },
    async restart(signal) {
      await keeper.end(signal);
      await keeper.start();
    },
    async close() {
      await keeper.end("SIGTERM");
    },
  };
  await keeper.start();
  return keeper;
}

/**
 * A port that stays ours while the server is down. One from the range the system gives to outgoing connections would not:
 * any connection of another test could be given it, and would hold it for a minute after its end.
 */
async function freePort(): Promise<number> {
  for (let attempts = 1; ; attempts += 1) {
    const port = randomInt(15_000, 32_000);
    if ((await isFree(port)) || attempts === 50) return port;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = net.createServer();
  const listening = await new Promise<boolean>((resolve) => {
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => resolve(true));
  });
  if (listening) await new Promise<void>((resolve) => server.close(() => resolve()));
  return listening;
}
