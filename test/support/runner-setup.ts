/** Sandboxes are shown the runner as one file; tests run the one of this checkout. */
import { buildRunner } from "../../setup/runner.ts";

export default async function setUpRunner(): Promise<void> {
  await buildRunner();
}
