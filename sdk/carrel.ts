import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { ChannelService } from "../gen/carrel/v1/channel_service_pb.ts";
import { CredentialService } from "../gen/carrel/v1/credential_service_pb.ts";
import type { Event } from "../gen/carrel/v1/event_pb.ts";
import { MemoryService } from "../gen/carrel/v1/memory_service_pb.ts";
import { ProfileService } from "../gen/carrel/v1/profile_service_pb.ts";
import { RegistrationService } from "../gen/carrel/v1/registration_service_pb.ts";
import type { Session } from "../gen/carrel/v1/session_pb.ts";
import { SessionService } from "../gen/carrel/v1/session_service_pb.ts";
import { type AllEventsOptions, type AllSessionsOptions, allEvents, allSessions } from "./pages.ts";
import { createTokens, type TokenSource, withTokens } from "./tokens.ts";
import { type WatchItem, type WatchOptions, watchEvents } from "./watch.ts";

export type { Backoff } from "./backoff.ts";
export { createLiveBlocks, type LiveBlocks } from "./blocks.ts";
export { mayPass, messageOf, metadataOf, reasonOf, retryAfterMsOf } from "./errors.ts";
export type { AllEventsOptions, AllSessionsOptions } from "./pages.ts";
export { fromProductJson, toProductJson } from "./product-json.ts";
export { type RetryOptions, retrying } from "./retry.ts";
export type { TokenSource } from "./tokens.ts";
export type { Lost, WatchItem, WatchOptions } from "./watch.ts";
export { valueOfWord, wordOf, wordsOf } from "./words.ts";

/** A connection to one installation as one person. */
export type Carrel = {
  registration: Client<typeof RegistrationService>;
  credentials: Client<typeof CredentialService>;
  profiles: Client<typeof ProfileService>;
  /** The memory banks of profiles. */
  memories: Client<typeof MemoryService>;
  sessions: Client<typeof SessionService>;
  channel: Client<typeof ChannelService>;
  /** Follows a session: each event once and in order, over any number of lost connections. See WatchOptions. */
  watch(sessionId: string, options?: WatchOptions): AsyncGenerator<WatchItem, void, undefined>;
  /** Every session of the caller, newest first. */
  allSessions(options?: AllSessionsOptions): AsyncGenerator<Session, void, undefined>;
  /** The log of a session as it is now, oldest first. */
  allEvents(sessionId: string, options?: AllEventsOptions): AsyncGenerator<Event, void, undefined>;
  /** Closes connections that are held open; calls under way fail. Safe to repeat. */
  close(): void;
};

export type CarrelOverOptions = {
  /** How calls travel. */
  transport: Transport;
  /** Who is calling. Default: nobody. */
  token?: TokenSource | undefined;
  /** Closes what the transport holds open. */
  close?: () => void;
};

/** A client over any Connect transport. `createCarrel` of the Node and browser entries makes the usual ones. */
export function createCarrelOver({ transport, token, close }: CarrelOverOptions): Carrel {
  const tokens = createTokens(token);
  const authorized = withTokens(transport, tokens);
  const sessions = createClient(SessionService, authorized);
  const channel = createClient(ChannelService, authorized);
  return {
    registration: createClient(RegistrationService, authorized),
    credentials: createClient(CredentialService, authorized),
    profiles: createClient(ProfileService, authorized),
    memories: createClient(MemoryService, authorized),
    sessions,
    channel,
    watch: (sessionId, options = {}) => watchEvents({ channel, sessions, tokens }, sessionId, options),
    allSessions: (options = {}) => allSessions(sessions, options),
    allEvents: (sessionId, options = {}) => allEvents(channel, sessionId, options),
    close: () => close?.(),
  };
}
