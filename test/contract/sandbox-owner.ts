// A control plane that starts one sandbox, says so, and then waits to be killed. The specification comes on its input.
import { text } from "node:stream/consumers";
import { createBubblewrapDriver } from "../../server/sandbox/bubblewrap.ts";

const [stateDirectory = ""] = process.argv.slice(2);
const spec = JSON.parse(await text(process.stdin));
const driver = await createBubblewrapDriver({ stateDirectory, log: { info: () => {}, warn: () => {} } });
const handle = await driver.start({ ...spec, stdin: Buffer.from(spec.stdin, "base64") });
process.stdout.write(JSON.stringify(handle));
setInterval(() => {}, 60_000);
