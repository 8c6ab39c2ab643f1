// Looks at rows and sandboxes again and again while things happen.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createRecords } from "../../../server/sandbox/records.ts";
import { isRunning, placesOf } from "../../support/sandboxes.ts";
import type { Sample } from "../history/evidence.ts";
import type { World } from "../world.ts";

export type Sampler = { samples: Sample[]; calm(): void; stop(): Promise<void> };

const intervalMs = 300;

export async function startSampler({ installation }: World): Promise<Sampler> {
  const samples: Sample[] = [];
  const started = performance.now();
  let calm = false;
  let over = false;
  const state = join(placesOf(installation).data, "driver");
  const records = await createRecords("bubblewrap", state);
  const sandboxes = async (): Promise<Sample["sandboxes"]> => {
    const handles = await Promise.all(readdirSync(join(state, "sandboxes")).map((id) => records.read(id)));
    return handles.flatMap((handle) =>
      handle?.init && isRunning(handle.init.pid) ? [{ box: handle.labels["box"] ?? "", uid: handle.uid }] : [],
    );
  };
  const look = async (): Promise<void> => {
    const rows = await installation.database.db
      .selectFrom("session")
      .select(["id", "state", "epoch", "last_seq", "end_reason", "snapshot_generation", "box"])
      .execute();
    samples.push({ atMs: performance.now() - started, calm, sessions: rows, sandboxes: await sandboxes() });
  };
  const looking = (async () => {
    while (!over) {
      // Postgres may be away: then there is nothing to be seen.
      await look().catch(() => undefined);
      await sleep(intervalMs);
    }
  })();
  return {
    samples,
    calm: () => void (calm = true),
    async stop() {
      over = true;
      await looking;
      await look();
    },
  };
}
