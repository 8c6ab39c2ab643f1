// One agent, one turn at a time: what the control plane asks becomes what the agent does, and what it does is reported.
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "../gen/carrel/runner/v1/command_pb.ts";
import { type Agent, type AgentObserver, startAgent } from "./agent.ts";
import { type Channel, Fenced } from "./channel.ts";
import { createDecisions, type Decisions } from "./decisions.ts";
import { settingsOf } from "./manifest.ts";
import { type AgentSettings, canBeSet, launchOf, type Place, presentOf, settingsAtBoot } from "./orders.ts";
import type { AskedSnapshot } from "./snapshots.ts";
import { createTranslator, type Translator } from "./translate.ts";

export type Exit = { reason: string; code: number; dormant?: boolean };

export type Driver = {
  /** Ends an agent that was started too early: its files are about to be replaced. */
  rest(): Promise<void>;
  /**
   * Hands over the live channel; what the session wants of the agent is set before its first prompt.
   * @param conversation the one to go on with; empty starts a new one.
   */
  serve(channel: Channel, conversation: string): Promise<void>;
  /**
   * Does the same while the workspace is still on its way, for `serve` to find the agent at work. Does nothing where the agent would
   * miss something: its conversation, or a tool server that may lie in the workspace.
   */
  serveEarly(channel: Channel, conversation: string): Promise<void>;
  onCommand(command: Command): void;
  ended: Promise<Exit>;
};

/** Crashes of the agent in a row, without a finished turn between them, after which the session has failed. */
const mostCrashes = 3;
const stderrKept = 4_000;
/** An agent answers in milliseconds; a first start on a busy machine may take seconds. */
const configureMs = 20_000;

const contextLost = {
  case: "system",
  value: { subtype: "context_lost", message: "the agent's record of the conversation is gone; it starts anew in the same workspace" },
} as const;

/** An agent that runs already, with the settings of the boot, and waits for whoever observes it. */
export type FirstAgent = {
  /** Undefined where its files are to be brought back first. */
  agent: Agent | undefined;
  /** The conversation it was told to take up again; empty for a new one. */
  conversation: string;
  observe(observer: AgentObserver): void;
};

type State = {
  place: Place;
  settings: AgentSettings;
  decisions: Decisions;
  translator: Translator;
  channel: Channel | undefined;
  agent: Agent | undefined;
  /** One that was asked to leave and may not have left yet. */
  ending: Agent | undefined;
  /** The agent's own id of the conversation; empty before its first turn. */
  conversation: string;
  /** The prompt's event number; 0 while idle. */
  turn: number;
  interrupted: boolean;
  crashes: number;
  stderrTail: string;
  /** Stops putting the session away. */
  staying: AbortController | undefined;
  /** Resolves when nothing is being put away any more: one after the other. */
  put: Promise<void>;
  /** Nothing is started any more. */
  leaving: boolean;
  putAway: PutAway;
  end(exit: Exit): void;
};

/** Puts the session away; true when it is, and the runner is to leave. */
export type PutAway = (asked: AskedSnapshot, signal: AbortSignal) => Promise<boolean>;

export function createDriver(place: Place, first: FirstAgent, putAway: PutAway): Driver {
  const { boot } = place;
  const attached = Promise.withResolvers<Channel>();
  const { promise: ended, resolve: end } = Promise.withResolvers<Exit>();
  const translator = createTranslator(() => state.interrupted);
  const state: State = {
    place,
    settings: settingsAtBoot(boot),
    decisions: createDecisions(
      attached.promise,
      () => state.turn,
      (agentId) => translator.parentOf(agentId),
    ),
    translator,
    channel: undefined,
    agent: first.agent,
    ending: undefined,
    conversation: first.conversation,
    turn: 0,
    interrupted: false,
    crashes: 0,
    stderrTail: "",
    staying: undefined,
    put: Promise.resolve(),
    leaving: false,
    putAway,
    end,
  };
  first.observe(observerOf(state));
  if (first.agent) follow(state, first.agent);
  const serve = async (channel: Channel, conversation: string): Promise<void> => {
    state.conversation = presentOf(place, conversation);
    await adapt(state, settingsOf(channel.attached.manifest!, place));
    state.channel = channel;
    void state.agent?.ready.then(channel.agentReady);
    attached.resolve(channel);
    if (conversation && state.conversation !== conversation) channel.append([contextLost]);
  };
  return {
    ended,
    onCommand: (command) => obey(state, command),
    rest: () => stopAgent(state, "killed"),
    serve,
    async serveEarly(channel, conversation) {
      const { mcpServers } = settingsOf(channel.attached.manifest!, place);
      const runsPrograms = Object.values(mcpServers).some(({ type }) => type === "stdio");
      if (!runsPrograms && conversation && presentOf(place, conversation)) await serve(channel, conversation);
    },
  };
}

/** With the turn that it was in, if any. */
async function stopAgent(state: State, how: "asked" | "killed"): Promise<void> {
  const { agent } = state;
  state.agent = undefined;
  state.turn = 0;
  state.ending = agent;
  agent?.stop(how);
  await agent?.ended;
  await agent?.gone();
}

/** Most settings can be changed while the agent runs; its environment and tool servers cannot. */
async function adapt(state: State, wanted: AgentSettings): Promise<void> {
  const before = state.settings;
  state.settings = wanted;
  if (canBeSet(before, wanted) && state.agent && (await isConfigured(state.agent, wanted))) return;
  const old = state.agent;
  state.agent = undefined;
  old?.stop("killed");
  state.agent = start(state);
}

/** False for an agent that does not answer, which is then replaced. */
async function isConfigured(agent: Agent, wanted: AgentSettings): Promise<boolean> {
  const answer = agent.configure(wanted).then(
    () => true,
    () => false,
  );
  return Promise.race([answer, sleep(configureMs, false, { ref: false })]);
}

function start(state: State): Agent {
  const { place, settings, conversation } = state;
  const agent = startAgent({ ...launchOf(place, settings, conversation), observer: Promise.resolve(observerOf(state)) });
  follow(state, agent);
  return agent;
}

function follow(state: State, agent: Agent): void {
  void agent.ended.then((error) => onAgentEnded(state, agent, error));
}

function observerOf(state: State): AgentObserver {
  return {
    decide: state.decisions.decide,
    onStderr(text) {
      state.stderrTail = (state.stderrTail + text).slice(-stderrKept);
      process.stderr.write(text);
    },
    onMessage(message) {
      const { events, delta, turnEnded } = state.translator.translate(message);
      if (delta) state.channel?.pushDelta(delta);
      for (const event of events) if (event.case === "sdkSessionId") state.conversation = event.value.id ?? state.conversation;
      if (turnEnded) Object.assign(state, { turn: 0, interrupted: false, crashes: 0 });
      state.channel?.append(events);
    },
  };
}

/** The process is gone: a turn it was in has failed; the next prompt starts another one in the same conversation. */
async function onAgentEnded(state: State, ended: Agent, error: Error | undefined): Promise<void> {
  if (state.agent !== ended) return;
  state.agent = undefined;
  const { turn } = state;
  if (turn === 0) return;
  await ended.gone();
  if (state.turn !== turn) return;
  state.crashes += 1;
  const details = [error?.message, state.stderrTail.trim()].filter(Boolean).join("\n");
  const summary = error?.message ?? "the agent left in the middle of a turn";
  state.channel?.append([
    { case: "sessionError", value: { error: "agent_crashed", details } },
    { case: "result", value: { success: false, subtype: "agent_crashed", summary } },
  ]);
  state.turn = 0;
  if (state.crashes >= mostCrashes) state.end({ reason: `the agent crashed ${state.crashes} times in a row\n${details}`, code: 1 });
}

function obey(state: State, { id: commandId, kind }: Command): void {
  switch (kind.case) {
    case "prompt":
      // Was to be stopped, and was overtaken: what it waits for nobody answers any more.
      if (state.turn > 0) void stopAgent(state, "killed");
      Object.assign(state, { turn: kind.value.seq, interrupted: false, stderrTail: "" });
      state.staying?.abort();
      // Two over one conversation would both write its record.
      if (!state.agent) state.ending?.stop("killed");
      state.agent ??= start(state);
      return state.agent.prompt(kind.value.text);
    case "interrupt":
      return interrupt(state, kind.value.turn);
    case "toolDecision":
      return state.decisions.arrived(kind.value);
    case "hibernate":
      return inTurn(state, (staying) => hibernate(state, { ...kind.value, commandId }, staying));
    case "terminate":
      state.leaving = true;
      return inTurn(state, (staying) => terminate(state, { ...kind.value, commandId }, staying));
  }
}

/** What comes later stops what is under way, and waits for its end. */
function inTurn(state: State, work: (staying: AbortSignal) => Promise<void>): void {
  state.staying?.abort();
  const staying = new AbortController();
  state.staying = staying;
  state.put = state.put
    .then(() => work(staying.signal))
    .catch((error: Error) => state.end({ reason: error.message, code: error instanceof Fenced ? 0 : 1 }));
}

/** Nothing runs while the session is put away. Should it be wanted awake meanwhile, or not be kept, it goes on. */
async function hibernate(state: State, asked: AskedSnapshot, staying: AbortSignal): Promise<void> {
  if (staying.aborted) return;
  try {
    await stopAgent(state, state.turn > 0 ? "killed" : "asked");
    if (await state.putAway(asked, staying)) return state.end({ reason: "put away", code: 0, dormant: true });
  } catch (error) {
    if (error instanceof Fenced) throw error;
    if (!staying.aborted) await state.channel?.snapshots.abandon(asked.generation, error instanceof Error ? error.message : String(error));
  }
  if (!state.leaving) state.agent ??= start(state);
}

/** Brings a last snapshot out where one is asked for; whoever asked does not wait for long. */
async function terminate(state: State, asked: AskedSnapshot, staying: AbortSignal): Promise<void> {
  await stopAgent(state, state.turn > 0 ? "killed" : "asked");
  if (asked.generation > 0) {
    await state.putAway(asked, staying).catch((error: Error) => process.stderr.write(`runner: no last snapshot: ${error.message}\n`));
  }
  state.end({ reason: "asked to leave", code: 0 });
}

function interrupt(state: State, turn: number): void {
  if (state.turn !== turn) return;
  state.interrupted = true;
  state.agent?.interrupt().catch((error: Error) => process.stderr.write(`runner: interrupt failed: ${error.message}\n`));
}
