/** Tickets: a browser opens its WebSocket with one, once, for its own session, and it is good for nothing else. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import WebSocket from "ws";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import { reasonOf } from "../../server/errors.ts";
import { clientOf, createHarness, type Harness, ofType, type Person, type Served, type TestClient } from "./websocket-harness.ts";

let harness: Harness;
/** Two servers on one database. */
let servers: [Served, Served];
let owner: Person;
let sessionId: string;

beforeAll(async () => {
  harness = await createHarness();
  servers = [await harness.serve(), await harness.serve()];
  owner = await harness.person("owner@example.com");
  sessionId = await harness.session(owner);
});
afterAll(() => harness.close());

const userOf = ({ userId }: Person, expiresAt = Date.now() + 600_000) => ({
  issuer: "carrel",
  subject: "owner@example.com",
  email: "owner@example.com",
  operator: true,
  userId,
  expiresAt,
});

async function ticketFor(session = sessionId, expiresAt?: number): Promise<string> {
  return (await harness.tickets.issue(userOf(owner, expiresAt), session)).ticket;
}

function openWith(query: string, { server = servers[0], session = sessionId, path = "/v1/sessions/{id}/ws" } = {}): TestClient {
  return clientOf(new WebSocket(`${server.url}${path.replace("{id}", session)}?${query}`));
}

async function opened(client: TestClient): Promise<boolean> {
  const first = await Promise.race([client.next(ofType("session_status")).catch(() => undefined), client.closed]);
  client.socket.terminate();
  return first !== undefined && "type" in first;
}

describe("a ticket", () => {
  it.each(["/v1/sessions/{id}/ws", "/v1/ws/sessions/{id}"])("opens %s and speaks for its person there", async (path) => {
    const id = path.replace("{id}", "");
    await harness.askApproval(sessionId, id);
    const client = openWith(`ticket=${await ticketFor()}&after_seq=0`, { path });
    await client.next(ofType("tool_approval_request"));
    client.send("tool_approval_response", { tool_use_id: id, approved: true });
    const resolved = await client.next(({ payload }) => payload.subtype === "approval_resolved" && payload.tool_use_id === id);
    expect(resolved.payload.answered_by).toBe("owner@example.com");
    client.socket.terminate();
  });

  it("opens one connection of a hundred that come at once to two servers", async () => {
    for (let round = 0; round < 3; round++) {
      const ticket = await ticketFor();
      const clients = Array.from({ length: 100 }, (_, index) => openWith(`ticket=${ticket}`, { server: servers[index % 2]! }));
      const outcomes = await Promise.all(clients.map(opened));
      expect(outcomes.filter(Boolean)).toHaveLength(1);
    }
  });

  it("is told to be used up by close code 4001 and an error frame", async () => {
    const ticket = await ticketFor();
    expect(await opened(openWith(`ticket=${ticket}`))).toBe(true);
    const again = openWith(`ticket=${ticket}`);
    expect(await again.closed).toEqual({
      code: 4001,
      reason: "the ticket is not one for this session, was used or is too old: get another",
    });
    expect(again.frames.map(({ type, payload }) => [type, payload.code])).toEqual([["error", "unauthenticated"]]);
  });

  it("is for one session: shown for another it opens nothing, and is used up", async () => {
    const other = await harness.session(owner);
    const ticket = await ticketFor();
    expect((await openWith(`ticket=${ticket}`, { session: other }).closed).code).toBe(4001);
    expect((await openWith(`ticket=${ticket}`).closed).code).toBe(4001);
  });

  it("is too old after its lifetime", async () => {
    const { ticket, expiresAt } = await harness.ticketsOn(50).issue(userOf(owner), sessionId);
    expect(expiresAt.getTime()).toBeLessThan(Date.now() + 5_000);
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect((await openWith(`ticket=${ticket}`).closed).code).toBe(4001);
  });

  it("lives 30 seconds unless told otherwise", async () => {
    const { expiresAt } = await harness.tickets.issue(userOf(owner), sessionId);
    expect(expiresAt.getTime() - Date.now()).toBeGreaterThan(28_000);
    expect(expiresAt.getTime() - Date.now()).toBeLessThan(31_000);
  });

  it("gives a connection no longer life than the token it was bought with", async () => {
    const client = openWith(`ticket=${await ticketFor(sessionId, Date.now() - 59_500)}`);
    expect((await client.closed).code).toBe(4001);
  });

  it("never makes an operator of anybody", async () => {
    expect(await harness.tickets.redeem(await ticketFor(), sessionId)).toMatchObject({ userId: owner.userId, operator: false });
  });

  it("is kept as a hash only, and forgotten by the sweep when it is too old", async () => {
    const { ticket } = await harness.ticketsOn(1).issue(userOf(owner), sessionId);
    const kept = await ticketFor();
    const rows = await harness.db.selectFrom("socket_ticket").selectAll().execute();
    for (const text of [ticket, kept]) expect(JSON.stringify(rows)).not.toContain(text);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await harness.tickets.sweep();
    const left = await harness.db.selectFrom("socket_ticket").selectAll().execute();
    expect(left.every(({ expires_at }) => expires_at.getTime() > Date.now())).toBe(true);
    expect(await opened(openWith(`ticket=${kept}`))).toBe(true);
  });

  it("is not written to the log", async () => {
    const ticket = await ticketFor();
    await opened(openWith(`ticket=${ticket}`));
    await opened(openWith(`ticket=${ticket}`));
    expect(harness.lines.filter((line) => line.includes(ticket))).toEqual([]);
  });
});

describe("in the place of another token", () => {
  it("a ticket is no bearer token, neither in a header nor as ?token=", async () => {
    const ticket = await ticketFor();
    expect((await openWith(`token=${ticket}`).closed).code).toBe(4001);
    const inHeader = new WebSocket(`${servers[0].url}/v1/sessions/${sessionId}/ws`, { headers: { authorization: `Bearer ${ticket}` } });
    const status = await new Promise((resolve) => {
      inHeader.on("error", () => undefined);
      inHeader.on("unexpected-response", (_request, response) => resolve(response.statusCode));
    });
    expect(status).toBe(401);
    expect(await opened(openWith(`ticket=${ticket}`)), "it was not used up by that").toBe(true);
  });

  it.each([
    ["a person's token", () => owner.token],
    ["nothing", () => ""],
    ["a ticket with something added", async () => `${await ticketFor()}x`],
    ["a ticket that nobody made", () => `wst_${"A".repeat(43)}`],
    ["NUL", () => "%00"],
  ])("%s is no ticket", async (_name, text) => {
    expect((await openWith(`ticket=${await text()}`).closed).code).toBe(4001);
  });

  it("a header goes first, and leaves the ticket unused", async () => {
    const ticket = await ticketFor();
    const url = `${servers[0].url}/v1/sessions/${sessionId}/ws?ticket=${ticket}`;
    expect(await opened(clientOf(new WebSocket(url, { headers: { authorization: `Bearer ${owner.token}` } })))).toBe(true);
    expect(await opened(openWith(`ticket=${ticket}`))).toBe(true);
  });

  it("a ticket for somebody else's session finds none", async () => {
    const stranger = await harness.person("stranger@example.com");
    const theirs = await harness.session(stranger);
    expect((await openWith(`ticket=${await ticketFor(theirs)}`, { session: theirs }).closed).code).toBe(4004);
  });
});

it("a ticket of a session whose record is deleted goes with it", async () => {
  const gone = await harness.session(owner);
  const ticket = await ticketFor(gone);
  await harness.db.deleteFrom("event").where("session_id", "=", gone).execute();
  await harness.db.deleteFrom("session").where("id", "=", gone).execute();
  expect(reasonOf(await harness.tickets.redeem(ticket, gone).catch((error: unknown) => error))).toBe(ErrorReason.UNAUTHENTICATED);
});
