// Invariants of what a session is put away with, of forks, and of what the machine holds.
import type { Evidence, Look } from "./evidence.ts";
import { perSession } from "./log-invariants.ts";
import { type Find, found } from "./violation.ts";

/** The file only grows, so what a later turn finds begins with what every earlier one found: nothing is lost and nothing is mixed. */
export const workspaceIsTheLast: Find = ({ looks }) => {
  const bySession = Map.groupBy(looks, ({ sessionId }) => sessionId);
  return [...bySession].flatMap(([, ofOne]) => {
    const inOrder = ofOne.toSorted((one, other) => one.turn - other.turn);
    return inOrder.flatMap((look, index) => {
      const before = inOrder[index - 1];
      return before && !continues(before, look)
        ? found("lost", [
            `${look.sessionId}: turn ${look.turn} found ${look.lines.join(" ")}, and turn ${before.turn} ${before.lines.join(" ")}`,
          ])
        : [];
    });
  });
};

function continues(before: Look, after: Look): boolean {
  return before.lines.every((line, index) => after.lines[index] === line);
}

export const forksChangeNothing: Find = (evidence) => {
  const changed = evidence.forks.flatMap(({ sourceId, before, after }) =>
    before === after ? [] : [`${sourceId}: was changed by a fork of it`],
  );
  const shared = shareds(
    evidence.sessions.flatMap(({ session, snapshots, rows }) => [
      ...session.tokens.map((token) => ["a token", token, session.id] as const),
      ...snapshots.map(({ archive }) => ["an archive", archive, session.id] as const),
      ...rows.map(({ payload }) => ["a sealed event", Buffer.from(payload).toString("base64"), session.id] as const),
    ]),
  );
  const strange = perSession(evidence, ({ session, snapshots }) =>
    snapshots.filter(({ archive }) => !archive.startsWith(`${session.id}/`)).map(({ archive }) => `has the archive ${archive} of another`),
  );
  return found("broken", [...changed, ...shared, ...strange]);
};

function shareds(held: readonly (readonly [what: string, value: string, holder: string])[]): string[] {
  return [...Map.groupBy(held, ([what, value]) => `${what} ${value}`).values()].flatMap((same) => {
    const holders = new Set(same.map(([, , holder]) => holder));
    return holders.size > 1 ? [`${[...holders].join(" and ")} share ${same[0]![0]}`] : [];
  });
}

export const pointersHold: Find = (evidence) => {
  const archives = new Map(evidence.archives.map((archive) => [archive.name, archive]));
  const pointers = perSession(evidence, ({ session, snapshots }) => {
    const { snapshot_generation: current, state } = session;
    if (current === null) return state === "dormant" ? ["is dormant without a snapshot"] : [];
    return snapshots.some(({ generation }) => generation === current) ? [] : [`points to snapshot ${current}, which is not there`];
  });
  const missing = perSession(evidence, ({ snapshots }) =>
    snapshots.flatMap(({ generation, archive, bytes, sha256 }) => {
      const kept = archives.get(archive);
      if (!kept) return [`the archive of snapshot ${generation} is gone`];
      if (kept.bytes !== bytes || kept.sha256 !== sha256) return [`the archive of snapshot ${generation} is not what was stored`];
      return kept.opens === false ? [`the archive of snapshot ${generation} does not open`] : [];
    }),
  );
  return found("lost", [...pointers, ...missing]);
};

const restMs = 15_000;

export const nothingIsLeft: Find = (evidence) => {
  const left = Object.entries(evidence.leftovers).flatMap(([kind, all]) =>
    all.length > 0 ? [`${all.length} ${kind} are left: ${all.join(", ")}`] : [],
  );
  return found("orphan", [...left, ...survivors(evidence)]);
};

/** Sandboxes of sessions that had been dormant or ended for too long while nothing was done to the installation. */
function survivors({ samples }: Evidence): string[] {
  const since = new Map<string, number>();
  const problems = samples.flatMap(({ atMs, calm, sessions, sandboxes }) =>
    sessions.flatMap(({ id, state, box }) => {
      const rests = calm && (state === "ended" || state === "dormant") && box !== null && sandboxes.some((one) => one.box === box);
      if (!rests) since.delete(id);
      if (!rests) return [];
      const from = since.get(id) ?? atMs;
      since.set(id, from);
      return atMs - from > restMs ? [`${id}: is ${state}, and its sandbox lives on`] : [];
    }),
  );
  return [...new Set(problems)];
}

export const usersAreAlone: Find = ({ samples }) =>
  found("broken", [
    ...new Set(
      samples.flatMap(({ sandboxes }) =>
        [
          ...Map.groupBy(
            sandboxes.filter(({ uid }) => uid !== null),
            ({ uid }) => uid,
          ),
        ].flatMap(([uid, same]) => {
          const boxes = new Set(same.map(({ box }) => box));
          return boxes.size > 1 ? [`${[...boxes].join(" and ")} run as the same user ${uid}`] : [];
        }),
      ),
    ),
  ]);

/** Archives that no row names: what a killed process may leave for a day, and nothing else may. */
export function strandedArchives(evidence: Evidence): string[] {
  const named = new Set(evidence.sessions.flatMap(({ snapshots }) => snapshots.map(({ archive }) => archive)));
  return evidence.archives.filter(({ name }) => !named.has(name)).map(({ name }) => name);
}
