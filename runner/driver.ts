// One agent, one turn at a time: what the control plane asks becomes what the agent does, and what it does is reported.
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "../gen/carrel/runner/v1/command_pb.ts";
import { type Agent, type AgentObserver, startAgent } from "./agent.ts";
import type { Channel } from "./channel.ts";
import { createDecisions, type Decisions } from "./decisions.ts";
import { settingsOf } from "./manifest.ts";
import { type AgentSettings, canBeSet, launchOf, type Place, settingsAtBoot } from "./orders.ts";
import { createTranslator, type Translator } from "./translate.ts";

export type Exit = { reason: string; code: number };

export type Driver = {
  /** Hands over the live channel; what the session wants of the agent is set before its first prompt. */
  serve(channel: Channel): Promise<void>;
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
  agent: Agent;
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
  /** The agent's own id of the conversation; empty before its first turn. */
  conversation: string;
  /** The prompt's event number; 0 while idle. */
  turn: number;
  interrupted: boolean;
  crashes: number;
  stderrTail: string;
  end(exit: Exit): void;
};

export function createDriver(place: Place, first: FirstAgent): Driver {
  const { boot } = place;
  const attached = Promise.withResolvers<Channel>();
  const { promise: ended, resolve: end } = Promise.withResolvers<Exit>();
  const translator = createTranslator(() => state.interrupted);
  const state: State = {
    place,
    settings: settingsAtBoot(boot),
    decisions: createDecisions(attached.promise, (agentId) => translator.parentOf(agentId)),
    translator,
    channel: undefined,
    agent: first.agent,
    conversation: first.conversation,
    turn: 0,
    interrupted: false,
    crashes: 0,
    stderrTail: "",
    end,
  };
  first.observe(observerOf(state));
  void first.agent.ended.then((error) => onAgentEnded(state, first.agent, error));
  return {
    ended,
    onCommand: (command) => obey(state, command),
    async serve(channel) {
      await adapt(state, settingsOf(channel.attached.manifest!, place));
      state.channel = channel;
      attached.resolve(channel);
      if (boot.resume && state.conversation !== boot.resume) channel.append([contextLost]);
    },
  };
}

/** Most settings can be changed while the agent runs; its environment and tool servers cannot. */
async function adapt(state: State, wanted: AgentSettings): Promise<void> {
  const before = state.settings;
  state.settings = wanted;
  if (canBeSet(before, wanted) && state.agent && (await isConfigured(state.agent, wanted))) return;
  const old = state.agent;
  state.agent = undefined;
  old?.stop();
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
  void agent.ended.then((error) => onAgentEnded(state, agent, error));
  return agent;
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
function onAgentEnded(state: State, gone: Agent, error: Error | undefined): void {
  if (state.agent !== gone) return;
  state.agent = undefined;
  if (state.turn === 0) return;
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

function obey(state: State, { kind }: Command): void {
  switch (kind.case) {
    case "prompt":
      Object.assign(state, { turn: kind.value.seq, interrupted: false, stderrTail: "" });
      state.agent ??= start(state);
      return state.agent.prompt(kind.value.text);
    case "interrupt":
      return interrupt(state, kind.value.turn);
    case "toolDecision":
      return state.decisions.arrived(kind.value);
    case "terminate": {
      const { agent } = state;
      state.agent = undefined;
      agent?.stop();
      return state.end({ reason: "asked to leave", code: 0 });
    }
  }
}

function interrupt(state: State, turn: number): void {
  if (state.turn !== turn) return;
  state.interrupted = true;
  state.agent?.interrupt().catch((error: Error) => process.stderr.write(`runner: interrupt failed: ${error.message}\n`));
}
