/** One token: when the model wrote it and when it was seen at the end of the way, by `performance.now()`. */
export type Token = { writtenAt: number; seenAt: number };

export type Turn = { sentAt: number; tokens: Token[] };

/** A conversation with the agent, whatever is between. One turn at a time. */
export type Talker = {
  turn(text: string): Promise<Turn>;
  close(): Promise<void>;
};

const turnMs = 60_000;

/** Collects the turns of a talker. */
export function createTurns(send: (text: string) => Promise<void> | void) {
  let current: { turn: Turn; end: PromiseWithResolvers<Turn> } | undefined;
  return {
    async turn(text: string): Promise<Turn> {
      const end = Promise.withResolvers<Turn>();
      const turn: Turn = { sentAt: performance.now(), tokens: [] };
      current = { turn, end };
      const timer = setTimeout(() => end.reject(new Error(`a turn did not end in ${turnMs} ms`)), turnMs);
      await send(text);
      return end.promise.finally(() => clearTimeout(timer));
    },
    seen(stamps: readonly number[], seenAt: number): void {
      for (const writtenAt of stamps) current?.turn.tokens.push({ writtenAt, seenAt });
    },
    ended(): void {
      current?.end.resolve(current.turn);
    },
    failed(error: Error): void {
      current?.end.reject(error);
    },
  };
}
