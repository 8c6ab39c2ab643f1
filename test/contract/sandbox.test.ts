import { createBubblewrapDriver } from "../../server/sandbox/bubblewrap.ts";
import { sandboxDenials } from "./sandbox-denials.ts";
import { sandboxSuite } from "./sandbox-suite.ts";

const silent = { info: () => {}, warn: () => {} };
const makeDriver = (stateDirectory: string) => createBubblewrapDriver({ stateDirectory, log: silent });

sandboxSuite("bubblewrap", makeDriver);
sandboxDenials("bubblewrap", makeDriver);
