/** The protocol matrix over the whole app, not only over stubs. */
import { createInstallation, startApp } from "../support/carrel.ts";
import { protocolSuite } from "./protocol-suite.ts";

protocolSuite("the app", async () => {
  const installation = await createInstallation({ CARREL_STANDBY_SANDBOXES: "0" });
  const app = await startApp(installation);
  return {
    url: app.url,
    token: await installation.tokenFor("matrix@example.com"),
    async close() {
      await app.close();
      await installation.remove();
    },
  };
});
