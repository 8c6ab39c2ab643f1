// The way to the model provider (server/broker/model-gateway.ts, ledger.ts): who may spend, and what was spent.
import { type ControlPlane, change, present } from "./journal.ts";
import { Refusal, type Task } from "./scheduler.ts";
import { append, type Row, set } from "./tables.ts";
import { latency, newId, readTables, sleep, times, unavailable, type World } from "./world.ts";

type Phantom = { phantomToken: number; session: string };

/** Answers when the provider has; refused where the token opens nothing or the session has spent what it may. */
export function* modelRequest(world: World, plane: ControlPlane, { phantomToken, session }: Phantom, epoch: number): Task {
  const row = yield* findPhantom(world, phantomToken, session);
  if (!row) throw new Refusal("UNAUTHENTICATED");
  const { turn, max_budget_micros: maxBudgetMicros, max_turns: maxTurns } = row;
  const phantom = { sessionId: row.id, ownerId: row.owner, epoch: row.epoch, box: row.box, turn, spentMicros: row.spent, maxBudgetMicros };
  if (world.rules.capReached({ ...phantom, modelRequests: row.model_requests, maxTurns }, true)) {
    yield* change(world, plane, row.id, present, (one) => set(one, world.rules.wishToEnd(one.row, "completed") ?? {}));
    throw new Refusal("CAP_REACHED");
  }
  world.checker.modelRequested(row, epoch);
  const { bookings } = plane.memory;
  bookings.set(row.id, (bookings.get(row.id) ?? 0) + 1);
  yield sleep(world, 20 + latency(world) * 10);
  if (world.random.chance(world.faults.provider)) {
    world.checker.reach("fault: the provider fails");
    bookings.set(row.id, bookings.get(row.id)! - 1);
    throw new Refusal(unavailable);
  }
  const request = newId(world, "request");
  const cost = world.random.between(1, 3);
  world.checker.providerAnswered(request, row.id, cost, plane.process);
  world.scheduler.spawn(plane.process, book(world, plane, { request, sessionId: row.id, cost }));
}

function* findPhantom(world: World, phantomToken: number, session: string): Task<Row | undefined> {
  let found: Row | undefined;
  yield readTables(world, (row) => {
    const isMeant = world.rules.order.comparePhantom ? row.phantom_hash === phantomToken : row.id === session;
    if (isMeant && row.state === "running" && row.desired === "run") found = row;
    return false;
  });
  return found;
}

type Booking = { request: string; sessionId: string; cost: number };

/** Tried again until it is in the log, once. Bookings of one session follow one another. */
function* book(world: World, plane: ControlPlane, { request, sessionId, cost }: Booking): Task {
  const { bookings, booking } = plane.memory;
  while (booking.has(sessionId)) yield sleep(world, 20);
  booking.add(sessionId);
  let booked: number | undefined;
  for (let isDone = false; !isDone; ) {
    try {
      yield* change(world, plane, sessionId, present, (one) => {
        // Nobody else books for the session: a tally that is there already tells of a commit whose answer was lost.
        if (booked === one.row.spent && world.rules.order.bookOnce) return;
        booked = one.row.spent + cost;
        set(one, { spent: booked, model_requests: one.row.model_requests + 1 });
        one.also.push(() => world.checker.booked(request));
        if (one.row.state !== "ended") append(one, "usage", request);
      });
      isDone = true;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.reason === "NOT_FOUND") isDone = true;
      else yield sleep(world, 100);
    }
  }
  booking.delete(sessionId);
  bookings.set(sessionId, bookings.get(sessionId)! - 1);
}

/** Waits until every model request of the session so far is booked, or for a while. */
export function* settled(world: World, plane: ControlPlane, sessionId: string): Task {
  const until = world.scheduler.now + times.settleMs;
  while ((plane.memory.bookings.get(sessionId) ?? 0) > 0 && world.scheduler.now < until) yield sleep(world, 50);
}
