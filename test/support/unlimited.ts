/** Rate limits far above what a test does in a minute. For tests of something else. */
export const unlimited = {
  CARREL_LIMIT_CONCURRENT_SESSIONS: "100",
  CARREL_LIMIT_PROMPTS_PER_MINUTE: "10000",
  CARREL_LIMIT_REGISTRATIONS_PER_MINUTE: "10000",
  CARREL_LIMIT_SESSION_CREATES_PER_MINUTE: "10000",
};
