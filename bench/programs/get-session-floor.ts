// The floor of GetSession: the library's own handler, nothing before it, and one query by primary key.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import pg from "pg";
import { SessionService } from "../../gen/carrel/v1/session_service_pb.ts";
import { answerParent, settingsOfProgram } from "../support/program.ts";

const pool = new pg.Pool({ ...settingsOfProgram<pg.ClientConfig>(), max: 20 });
await pool.query("create table if not exists bench_session (id text primary key, name text, model text)");
await pool.query("insert into bench_session values ($1, 'bench', 'bench') on conflict do nothing", [`ses_${"1".repeat(32)}`]);

const server = createServer(
  connectNodeAdapter({
    routes: (router) =>
      router.service(SessionService, {
        async getSession({ sessionId }) {
          const { rows } = await pool.query<{ id: string; name: string; model: string }>(
            "select id, name, model from bench_session where id = $1",
            [sessionId],
          );
          return { session: rows[0]! };
        },
      }),
  }),
);
server.listen(0, "127.0.0.1", () => {
  answerParent(
    { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` },
    () => undefined,
    async () => {
      server.closeAllConnections();
      server.close();
      await pool.end();
    },
  );
});
