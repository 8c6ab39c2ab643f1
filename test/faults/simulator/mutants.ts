import type { Rules } from "./rules.ts";
export const mutants: { name: string; rules: Rules }[] = [];
