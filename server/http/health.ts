import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { type Health, HealthCheckResponse_ServingStatus as ServingStatus } from "../../gen/grpc/health/v1/health_pb.ts";

/** Whether this server can do its work now. Must answer quickly and not throw. */
export type ReadyCheck = () => boolean | Promise<boolean>;

const pollMs = 1000;

/** The gRPC health service for `services` (full names; the empty name is the whole server). Watch looks once a second. */
export function createHealthService(ready: ReadyCheck, services: readonly string[]): ServiceImpl<typeof Health> {
  const known = new Set(["", ...services]);
  const status = async () => ((await ready()) ? ServingStatus.SERVING : ServingStatus.NOT_SERVING);
  return {
    async check({ service }) {
      if (!known.has(service)) throw new ConnectError("unknown service", Code.NotFound);
      return { status: await status() };
    },
    async list() {
      const now = await status();
      return { statuses: Object.fromEntries([...known].map((service) => [service, { status: now }])) };
    },
    async *watch({ service }, { signal }) {
      // The protocol wants an unknown service answered, not refused: it may appear later.
      if (!known.has(service)) yield { status: ServingStatus.SERVICE_UNKNOWN };
      let last: ServingStatus | undefined;
      while (!signal.aborted) {
        const now = known.has(service) ? await status() : undefined;
        if (now !== undefined && now !== last) yield { status: now };
        last = now;
        await sleep(pollMs, undefined, { signal });
      }
    },
  };
}
