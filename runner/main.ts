// The program inside the sandbox: takes its orders from standard input, attaches, and drives one agent until told to leave.
import { text } from "node:stream/consumers";
import { type AgentObserver, startAgent } from "./agent.ts";
import { forwardLoopback } from "./forward.ts";
import { type Boot, launchOf, type Place, presentOf, settingsAtBoot } from "./orders.ts";

async function run(boot: Boot): Promise<void> {
  const forward = await forwardLoopback(boot.socket);
  const place: Place = { boot, door: new URL(forward.url), environment: process.env };
  const conversation = presentOf(place, boot.resume);
  // Nothing takes as long as the start of the agent: it starts first, and everything else is loaded meanwhile.
  const { promise: observer, resolve: observe } = Promise.withResolvers<AgentObserver>();
  const agent = boot.restore ? undefined : startAgent({ ...launchOf(place, settingsAtBoot(boot), conversation), observer });
  const { serveSession, leave } = await import("./session.ts");
  await serveSession(place, { agent, conversation, observe }).then(process.exit, leave);
}

text(process.stdin)
  .then((orders) => run(JSON.parse(orders) as Boot))
  .catch((error: Error) => {
    process.stderr.write(`runner: ${error.stack ?? error.message}\n`);
    process.exit(1);
  });
