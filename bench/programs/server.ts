// The server as in production, but for what its sandboxes run, and for a parent that may ask it to collect its garbage.
import { createApp } from "../../server/app.ts";
import { readConfig } from "../../server/config.ts";
import { createLog } from "../../server/log.ts";

const config = readConfig();
const app = await createApp({ ...config, runnerPath: process.argv[2] ?? "" }, createLog(config.logLevel));
process.stdout.write(`Carrel is ready at ${app.url}\n`);
process.once("SIGTERM", () => void app.close().finally(() => process.exit()));
process.on("message", () => {
  for (let pass = 0; pass < 3; pass += 1) globalThis.gc?.();
  process.send?.({ rss: process.memoryUsage.rss() });
});
