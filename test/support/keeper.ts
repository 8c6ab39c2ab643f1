/** A server process that is killed and started again on the same port, as an operator's supervisor would. */
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

async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
