import { Code, ConnectError, type Transport } from "@connectrpc/connect";

/**
 * A bearer token, or a function that returns one. The function is called before the first call and again whenever the
 * server answers UNAUTHENTICATED, so it may read a file or refresh a sign-in. Undefined: calls carry no token.
 */
export type TokenSource = string | (() => string | undefined | Promise<string | undefined>);

/** Holds the token in use. */
export type Tokens = {
  /** The token to send now; fetched once, however many calls wait for it. */
  current(): Promise<string | undefined>;
  /** Forgets the token, so that the next call asks the source; false when the source has nothing else to offer. */
  forget(): boolean;
};

export function createTokens(source: TokenSource | undefined): Tokens {
  let held: Promise<string | undefined> | undefined;

  async function fetchToken(): Promise<string | undefined> {
    return typeof source === "function" ? source() : source;
  }

  return {
    current() {
      if (!held) {
        const asked = fetchToken();
        held = asked;
        // A source that fails once must be asked again, not remembered as failing.
        asked.catch(() => {
          if (held === asked) held = undefined;
        });
      }
      return held;
    },
    forget() {
      held = undefined;
      return typeof source === "function";
    },
  };
}

/**
 * A transport that sends the token with every call. A unary call answered UNAUTHENTICATED is made once more with a fresh
 * token. Streams are not repeated here: only `watch` knows where to go on.
 */
export function withTokens(transport: Transport, tokens: Tokens): Transport {
  return {
    async unary(method, signal, timeoutMs, header, input, contextValues) {
      const call = async () => transport.unary(method, signal, timeoutMs, await authorized(header, tokens), input, contextValues);
      try {
        return await call();
      } catch (error) {
        if (!isUnauthenticated(error) || !tokens.forget()) throw error;
        return call();
      }
    },
    async stream(method, signal, timeoutMs, header, input, contextValues) {
      return transport.stream(method, signal, timeoutMs, await authorized(header, tokens), input, contextValues);
    },
  };
}

export function isUnauthenticated(error: unknown): boolean {
  return error instanceof ConnectError && error.code === Code.Unauthenticated;
}

async function authorized(header: HeadersInit | undefined, tokens: Tokens): Promise<Headers> {
  const headers = new Headers(header);
  const token = await tokens.current();
  if (token !== undefined && !headers.has("authorization")) headers.set("authorization", `Bearer ${token}`);
  return headers;
}
