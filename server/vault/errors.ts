/**
 * What an envelope answers to every failure: damage, another context, another key, an unknown version. One type and
 * one message, so that whoever can submit envelopes or contexts learns nothing about which check refused.
 */
export class VaultError extends Error {
  constructor() {
    super("the envelope does not open");
    this.name = "VaultError";
  }
}

/** A context or an identifier that cannot be bound: a mistake of the calling code, found before any key is used. */
export class ContextError extends Error {
  constructor(problem: string) {
    super(problem);
    this.name = "ContextError";
  }
}

/** The root key file cannot be used. `file` is its path; the message names it, and never quotes its content. */
export class KeyFileError extends Error {
  readonly file: string;

  constructor(file: string, problem: string, options?: ErrorOptions) {
    super(`root key file ${file}: ${problem}`, options);
    this.name = "KeyFileError";
    this.file = file;
  }
}

/** The loaded root keys do not fit what the database holds. `kid` names the root key concerned. */
export class RootKeyError extends Error {
  readonly kid: string;

  constructor(kid: string, problem: string) {
    super(`root key ${kid} ${problem}`);
    this.name = "RootKeyError";
    this.kid = kid;
  }
}

/** The user has no usable data key: never made, or destroyed with the user's data. */
export class UserKeyMissingError extends Error {
  readonly userId: string;

  constructor(userId: string) {
    super(`user ${userId} has no data key`);
    this.name = "UserKeyMissingError";
    this.userId = userId;
  }
}

/** A handle of `forUser` was kept past its lifetime; ask for a new one where the work is done. */
export class VaultExpiredError extends Error {
  constructor() {
    super("this user vault has expired, its keys are wiped");
    this.name = "VaultExpiredError";
  }
}
